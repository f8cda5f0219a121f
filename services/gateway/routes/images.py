"""`POST /generate_image`: a prompt in, charged pictures out."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Body, Header, Request, Response
from fastapi.responses import StreamingResponse

from services.gateway.client_request import CLIENT_CLOSED, best, hung_up
from services.gateway.deps import CurrentKey, PartsDep, UntilSent
from services.gateway.generation import ChargedImages, ClientGone
from services.gateway.openapi import documented
from services.gateway.png import base64_pieces, pieces
from services.gateway.problems import Problem, invalid, request_id
from services.gateway.schemas import (
    AdapterUsedDocument,
    GeneratedImages,
    GenerateImage,
    example_body,
)

JSON = "application/json"
PNG = "image/png"
HEADER_BYTES = 2048  # of warnings: a proxy takes 4 KiB of all headers together

router = APIRouter(tags=["images"])

RESPONSES = documented(
    "malformed-json",
    "key-missing",
    "key-wrong",
    "key-expired",
    "key-revoked",
    "unknown-adapter",
    "not-acceptable",
    "body-too-large",
    "unsupported-media-type",
    "invalid-request",
    "unknown-style",
    "quota-exceeded",
    "engine-failed",
    "adapter-loading",
    "gateway-busy",
    "engine-busy",
    "engine-away",
    "database-away",
    "timed-out",
)
RESPONSES[200] = {
    "description": "The pictures, as JSON; as one PNG where `Accept: image/png` asks for it.",
    "content": {PNG: {"schema": {"type": "string", "format": "binary"}}},
}


@router.post("/generate_image", response_model=GeneratedImages, responses=RESPONSES)
async def generate_image(
    request: Request,
    parts: PartsDep,
    key: CurrentKey,
    until_sent: UntilSent,
    body: Annotated[
        GenerateImage,
        Body(
            openapi_examples={
                "adapter": {"summary": "An adapter with a style", "value": example_body()},
                "base": {"summary": "The base alone", "value": {"prompt": "a red house in snow"}},
                "two": {
                    "summary": "Two adapters, one pinned",
                    "value": {
                        "prompt": "{trigger} by the sea",
                        "adapters": [
                            {"name": "thor-cat", "version": 2, "weight": 0.8},
                            {"name": "thumbs-up", "weight": 0.5},
                        ],
                    },
                },
            }
        ),
    ],
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> Response:
    """Make pictures. Only delivered pictures are charged to the key.

    The answer names the exact version and digest that made them, the prompt as it was sent and the
    seed, so that the same call gives the same pixels again.
    """
    kind = best(accept, (JSON, PNG))
    if kind is None:
        raise Problem("not-acceptable", f"this address answers {JSON} or {PNG}")
    if kind == PNG and body.images != 1:
        raise invalid([("images", f"{PNG} holds one picture; ask for 1, or accept {JSON}")])
    try:
        made = await parts.generation.make(
            key,
            body,
            request_id=request_id(request),
            gone=lambda: hung_up(request),
            until_sent=until_sent,
        )
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED)
    return _as_png(made) if kind == PNG else _as_json(made)


def _as_json(made: ChargedImages) -> Response:
    """A `GeneratedImages`, written piece by piece: its base64 is larger than the pictures."""
    about = GeneratedImages(
        images=[],
        adapters=_adapters(made),
        prompt=made.plan.call.prompt,
        warnings=list(made.info.warnings),
        timings={**made.info.timings, "gateway": round(made.seconds, 6)},
    )
    before, after = '{"images":[', about.model_dump_json().removeprefix('{"images":[')
    heads = [b'%s{"png":"' % (b"," if index else b"") for index in range(len(made.pngs))]
    tails = [b'","seed":%d}' % seed for seed in made.info.seeds]

    async def body() -> AsyncIterator[bytes]:
        yield before.encode()
        for head, tail in zip(heads, tails, strict=True):
            yield head
            for piece in base64_pieces(made.pngs.pop(0)):
                yield piece
            yield tail
        yield after.encode()

    sizes = [4 * math.ceil(len(png) / 3) for png in made.pngs]
    texts = [before.encode(), *heads, *tails, after.encode()]
    length = sum(sizes) + sum(map(len, texts))
    return StreamingResponse(body(), media_type=JSON, headers={"Content-Length": str(length)})


def _as_png(made: ChargedImages) -> Response:
    """The picture alone. What is short is told in headers (ASCII), all of it in the iTXt chunk."""
    (png,) = made.pngs
    headers = {
        "Content-Length": str(len(png)),
        "X-Atelier-Seed": str(made.info.seeds[0]),
        "X-Atelier-Adapters": json.dumps([one.model_dump() for one in _adapters(made)]),
    }
    if made.info.warnings:
        headers["X-Atelier-Warnings"] = warnings_header(made.info.warnings)

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces(png):
            yield piece

    return StreamingResponse(body(), media_type=PNG, headers=headers)


def warnings_header(warnings: Sequence[str]) -> str:
    """The warnings as a JSON list in ASCII of at most HEADER_BYTES.

    Where they are longer, the last entry says that they were cut.
    """
    whole = json.dumps(list(warnings))
    if len(whole) <= HEADER_BYTES:
        return whole
    note = f"cut: {len(warnings)} warnings are too long for a header; accept {JSON} to get them"
    shown: list[str] = []
    room = HEADER_BYTES - len(json.dumps([note]))
    for warning in warnings:
        room -= len(', ""')
        shown.append(_beginning(warning, room))
        room -= len(json.dumps(shown[-1])) - len('""')
        if shown[-1] != warning:
            break
    return json.dumps([*filter(None, shown), note])


def _beginning(text: str, size: int) -> str:
    """As many characters as take at most `size` bytes in JSON's ASCII: 雪 takes six of them."""
    for end, character in enumerate(text):
        size -= len(json.dumps(character)) - len('""')
        if size < 0:
            return text[:end]
    return text


def _adapters(made: ChargedImages) -> list[AdapterUsedDocument]:
    return [
        AdapterUsedDocument(
            name=one.name, version=one.version, digest=one.digest, weight=call.weight
        )
        for one, call in zip(made.plan.versions, made.plan.call.adapters, strict=True)
    ]
