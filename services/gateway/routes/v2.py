"""`/v2`: the Open Inference Protocol (V2) over HTTP for clients of Triton and KServe with a key."""

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
LOOK = "Health, metadata or configuration"
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


@router.get("", responses=LOOK_ERRORS, summary=LOOK)
@router.get("/health/live", responses=LOOK_ERRORS, summary=LOOK)
@router.get("/health/ready", responses=LOOK_ERRORS, summary=LOOK)
@router.get(MODEL, responses=LOOK_ERRORS, summary=LOOK)
@router.get(MODEL + "/ready", responses=LOOK_ERRORS, summary=LOOK)
@router.get(MODEL + "/config", responses=LOOK_ERRORS, summary=LOOK)
@router.get(MODEL + "/versions/{version}", responses=LOOK_ERRORS, summary=LOOK)
@router.get(MODEL + "/versions/{version}/ready", responses=LOOK_ERRORS, summary=LOOK)
@router.get(MODEL + "/versions/{version}/config", responses=LOOK_ERRORS, summary=LOOK)
async def look(request: Request, parts: PartsDep, key: CurrentKey, model: str = "") -> Response:
    """Return the health, metadata or configuration of Triton or its model."""
    _check_model(model, parts.settings.model)
    answer = await parts.v2.look(request.url.path, _headers(request), key)
    state = request.url.path.rpartition("/")[2]
    if answer.status == 200 and state in ("live", "ready"):
        # Triton sends no body, but clients of KServe read the body that the protocol defines
        return JSONResponse({**({"name": model} if model else {}), state: True})
    return _back(answer)


@router.post(MODEL + "/infer", responses=INFER_ERRORS)
@router.post(MODEL + "/versions/{version}/infer", responses=INFER_ERRORS)
async def infer(
    request: Request, parts: PartsDep, key: CurrentKey, until_sent: UntilSent, model: str
) -> Response:
    """Generate images. Delivered images are charged to the key.

    The inputs are PROMPT, NEGATIVE_PROMPT, ADAPTERS, SCHEDULER, SEED, STEPS, WIDTH, HEIGHT, IMAGES
    and GUIDANCE_SCALE. ADAPTERS is a JSON list of `{"name", "version"?, "weight"?}`; an adapter
    without a version gets the serving version. Trigger words are not inserted.

    The outputs are INFO and IMAGE, each as JSON or as binary data.
    """
    _check_model(model, parts.settings.model)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise V2Refused("Content-Encoding: is not supported; send the body uncompressed")
    try:
        answer = await parts.v2.infer(
            request.url.path,
            await request.body(),
            _headers(request),
            key,
            header_length=request.headers.get(HEADER_LENGTH),
            gone=lambda: hung_up(request),
            until_sent=until_sent,
        )
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED)
    if isinstance(answer, V2Answer):
        return _back(answer)
    return StreamingResponse(_cut_on_error(answer.body), headers=answer.headers)


async def _cut_on_error(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the body. After an error in its middle, only a closed connection shows the failure."""
    try:
        async for piece in body:
            yield piece
    except AtelierError as error:
        raise AnswerCut(str(error)) from error


def _check_model(model: str, served: str) -> None:
    if model not in ("", served):
        raise V2Refused(f"model {model[:40]!r}: no such model; use {served}")


def _headers(request: Request) -> Mapping[str, str]:
    """Return the headers to forward. They do not include the key, which the engine must not see."""
    return {name: value for name, value in request.headers.items() if name in PASSED_ON}


def _back(answer: V2Answer) -> Response:
    headers = {n: value for n, value in answer.headers.items() if n.lower() in PASSED_BACK}
    return Response(answer.body, answer.status, headers)
