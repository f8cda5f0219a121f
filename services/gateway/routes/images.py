"""`POST /generate_image`: a prompt in, charged pictures out."""

from __future__ import annotations

import base64
import json
from typing import Annotated

from fastapi import APIRouter, Body, Header, Request, Response

from services.gateway.accept import best
from services.gateway.deps import CurrentKey, PartsDep
from services.gateway.generation import ChargedImages, ClientGone
from services.gateway.hangup import CLIENT_CLOSED, hung_up
from services.gateway.openapi import documented
from services.gateway.problems import Problem, invalid, request_id
from services.gateway.schemas import (
    AdapterUsedDocument,
    GeneratedImage,
    GeneratedImages,
    GenerateImage,
    example_body,
)

JSON = "application/json"
PNG = "image/png"
LONGEST_WARNING = 300  # proxies take a few KiB of headers

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
            key, body, request_id=request_id(request), gone=lambda: hung_up(request)
        )
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED)
    return _as_png(made) if kind == PNG else _as_json(made)


def _as_json(made: ChargedImages) -> Response:
    answer = GeneratedImages(
        images=[
            GeneratedImage(png=base64.b64encode(png).decode(), seed=seed)
            for png, seed in zip(made.pngs, made.answer.info.seeds, strict=True)
        ],
        adapters=_adapters(made),
        prompt=made.plan.call.prompt,
        warnings=list(made.answer.info.warnings),
        timings={**made.answer.info.timings, "gateway": round(made.seconds, 6)},
    )
    return Response(answer.model_dump_json(), media_type=JSON)


def _as_png(made: ChargedImages) -> Response:
    """The picture alone. What is short is told in headers (ASCII), all of it in the iTXt chunk."""
    headers = {
        "X-Atelier-Seed": str(made.answer.info.seeds[0]),
        "X-Atelier-Adapters": json.dumps([one.model_dump() for one in _adapters(made)]),
    }
    if made.answer.info.warnings:
        told = [text[:LONGEST_WARNING] for text in made.answer.info.warnings]
        headers["X-Atelier-Warnings"] = json.dumps(told)
    return Response(made.pngs[0], media_type=PNG, headers=headers)


def _adapters(made: ChargedImages) -> list[AdapterUsedDocument]:
    return [
        AdapterUsedDocument(
            name=one.name, version=one.version, digest=one.digest, weight=call.weight
        )
        for one, call in zip(made.plan.versions, made.plan.call.adapters, strict=True)
    ]
