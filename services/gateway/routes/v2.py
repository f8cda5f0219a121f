"""`/v2`: Triton's own protocol over HTTP, for its clients and KServe's, with a key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from atelier.errors import AtelierError
from services.gateway.client_request import CLIENT_CLOSED, hung_up
from services.gateway.deps import CurrentKey, PartsDep, UntilSent
from services.gateway.generation import ClientGone
from services.gateway.middleware import AnswerCut
from services.gateway.openapi import documented_v2
from services.gateway.replicas import V2Answer
from services.gateway.v2 import V2Refused
from services.gateway.v2_answer import HEADER_LENGTH

router = APIRouter(prefix="/v2", tags=["V2 inference"])

MODEL = "/models/{model}"
PASSED_ON = ("accept", "content-type")
PASSED_BACK = ("content-type", HEADER_LENGTH.lower())
KEY = ("key-missing", "key-wrong", "key-expired", "key-revoked", "database-away")
LOOK_ERRORS = documented_v2(*KEY, "bad-request", "engine-away", "timed-out")
INFER_ERRORS = documented_v2(
    *KEY,
    "bad-request",
    "invalid-request",
    "unknown-adapter",
    "body-too-large",
    "quota-exceeded",
    "engine-failed",
    "adapter-loading",
    "gateway-busy",
    "engine-busy",
    "engine-away",
    "timed-out",
)


@router.get("", responses=LOOK_ERRORS)
@router.get("/health/live", responses=LOOK_ERRORS)
@router.get("/health/ready", responses=LOOK_ERRORS)
@router.get(MODEL, responses=LOOK_ERRORS)
@router.get(MODEL + "/ready", responses=LOOK_ERRORS)
@router.get(MODEL + "/config", responses=LOOK_ERRORS)
@router.get(MODEL + "/versions/{version}", responses=LOOK_ERRORS)
@router.get(MODEL + "/versions/{version}/ready", responses=LOOK_ERRORS)
@router.get(MODEL + "/versions/{version}/config", responses=LOOK_ERRORS)
async def look(request: Request, parts: PartsDep, key: CurrentKey, model: str = "") -> Response:
    """What Triton says of itself and of its model."""
    _known(model, parts.settings.model)
    answer = await parts.v2.look(request.url.path, _on(request), key)
    state = request.url.path.rpartition("/")[2]
    if answer.status == 200 and state in ("live", "ready"):
        # Triton's says it by the status alone; KServe's clients read the protocol's body
        return JSONResponse({**({"name": model} if model else {}), state: True})
    return _back(answer)


@router.post(MODEL + "/infer", responses=INFER_ERRORS)
@router.post(MODEL + "/versions/{version}/infer", responses=INFER_ERRORS)
async def infer(
    request: Request, parts: PartsDep, key: CurrentKey, until_sent: UntilSent, model: str
) -> Response:
    """Pictures, by the inputs PROMPT, NEGATIVE_PROMPT, ADAPTERS, SCHEDULER, SEED, STEPS, WIDTH,
    HEIGHT, IMAGES, GUIDANCE_SCALE.

    ADAPTERS is a JSON list of `{"name", "version"?, "weight"?}`; one without a version gets the
    one that serves. Trigger words are not filled in. Delivered pictures are charged to the key.

    Outputs are INFO and IMAGE, each as JSON or as binary data.
    """
    _known(model, parts.settings.model)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise V2Refused("send the body uncompressed: it is read here")
    try:
        answer = await parts.v2.infer(
            request.url.path,
            await request.body(),
            _on(request),
            key,
            header_length=request.headers.get(HEADER_LENGTH),
            gone=lambda: hung_up(request),
            until_sent=until_sent,
        )
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED)
    if isinstance(answer, V2Answer):
        return _back(answer)
    return StreamingResponse(_whole(answer.body), headers=answer.headers)


async def _whole(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The body; an engine that breaks off in the middle can only be told by breaking off, too."""
    try:
        async for piece in body:
            yield piece
    except AtelierError as error:
        raise AnswerCut(str(error)) from error


def _known(model: str, ours: str) -> None:
    if model not in ("", ours):
        raise V2Refused(f"there is no model {model[:40]!r} here; it is called {ours}")


def _on(request: Request) -> Mapping[str, str]:
    """Without the key: nobody behind the gateway is to see it."""
    return {name: value for name, value in request.headers.items() if name in PASSED_ON}


def _back(answer: V2Answer) -> Response:
    headers = {n: value for n, value in answer.headers.items() if n.lower() in PASSED_BACK}
    return Response(answer.body, answer.status, headers)
