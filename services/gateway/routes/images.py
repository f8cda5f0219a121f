"""`POST /generate_image`: generate images from a prompt, and charge them."""

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
HEADER_BYTES = 2048  # limit of the warnings; proxies accept 4 KiB for all headers together

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
    "description": "The images, as JSON. With `Accept: image/png`, one PNG: the seed, the adapters "
    "and the warnings are then in the headers `X-Atelier-Seed`, `X-Atelier-Adapters` and "
    "`X-Atelier-Warnings`.",
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
    """Generate images. Only delivered images are charged to the key.

    The response contains the version and digest of each adapter, the prompt as sent to the model,
    and the seed of each image. The same request with these values gives the same pixels again.
    """
    kind = best(accept, (JSON, PNG))
    if kind is None:
        raise Problem("not-acceptable", f"Accept: must allow {JSON} or {PNG}")
    if kind == PNG and body.images != 1:
        raise invalid([("images", f"must be 1 for {PNG}; accept {JSON} for several")])
    try:
        result = await parts.generation.make(
            key,
            body,
            request_id=request_id(request),
            gone=lambda: hung_up(request),
            until_sent=until_sent,
        )
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED)
    return _as_png(result) if kind == PNG else _as_json(result)


def _as_json(result: ChargedImages) -> Response:
    """Yield the JSON of `GeneratedImages` piece by piece, because its base64 takes much memory."""
    without_images = GeneratedImages(
        images=[],
        adapters=_adapters(result),
        prompt=result.plan.call.prompt,
        warnings=list(result.info.warnings),
        timings={**result.info.timings, "gateway": round(result.seconds, 6)},
    )
    before = '{"images":['
    after = without_images.model_dump_json().removeprefix(before)
    heads = [b'%s{"png":"' % (b"," if index else b"") for index in range(len(result.pngs))]
    tails = [b'","seed":%d}' % seed for seed in result.info.seeds]

    async def body() -> AsyncIterator[bytes]:
        yield before.encode()
        for head, tail in zip(heads, tails, strict=True):
            yield head
            for piece in base64_pieces(result.pngs.pop(0)):
                yield piece
            yield tail
        yield after.encode()

    sizes = [4 * math.ceil(len(png) / 3) for png in result.pngs]
    texts = [before.encode(), *heads, *tails, after.encode()]
    length = sum(sizes) + sum(map(len, texts))
    return StreamingResponse(body(), media_type=JSON, headers={"Content-Length": str(length)})


def _as_png(result: ChargedImages) -> Response:
    """Return the PNG as the response.

    Its iTXt chunk contains all parameters; headers (ASCII) contain the short ones.
    """
    (png,) = result.pngs
    headers = {
        "Content-Length": str(len(png)),
        "X-Atelier-Seed": str(result.info.seeds[0]),
        "X-Atelier-Adapters": json.dumps([used.model_dump() for used in _adapters(result)]),
    }
    if result.info.warnings:
        headers["X-Atelier-Warnings"] = warnings_header(result.info.warnings)

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces(png):
            yield piece

    return StreamingResponse(body(), media_type=PNG, headers=headers)


def warnings_header(warnings: Sequence[str]) -> str:
    """Return the warnings as a JSON list in ASCII of at most HEADER_BYTES.

    A longer list is truncated, and its last entry describes the truncation.
    """
    whole = json.dumps(list(warnings))
    if len(whole) <= HEADER_BYTES:
        return whole
    note = f"truncated: {len(warnings)} warnings exceed the header; accept {JSON} for all of them"
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
    """Truncate a text to `size` bytes of ASCII JSON. A character such as 雪 takes six bytes."""
    for end, character in enumerate(text):
        size -= len(json.dumps(character)) - len('""')
        if size < 0:
            return text[:end]
    return text


def _adapters(result: ChargedImages) -> list[AdapterUsedDocument]:
    return [
        AdapterUsedDocument(
            name=version.name, version=version.version, digest=version.digest, weight=use.weight
        )
        for version, use in zip(result.plan.versions, result.plan.call.adapters, strict=True)
    ]
