"""Describe the errors of each route in OpenAPI, with an example of every problem document."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from atelier.contract.problems import CATALOGUE, MEDIA_TYPE, TYPE
from services.gateway.problems import V2_STATUS
from services.gateway.schemas import ProblemDocument

COMPONENTS = "#/components/schemas/{model}"


def documented(*slugs: str) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI `responses` for the problems of a route, by HTTP status."""
    responses: dict[int | str, dict[str, Any]] = {}
    for slug in slugs:
        status, title = CATALOGUE[slug]
        schema = {"$ref": COMPONENTS.format(model=ProblemDocument.__name__)}
        empty = {"description": "", "content": {MEDIA_TYPE: {"schema": schema, "examples": {}}}}
        entry = responses.setdefault(status, empty)
        entry["description"] = ", ".join(filter(None, [entry["description"], f"`{slug}`"]))
        entry["content"][MEDIA_TYPE]["examples"][slug] = {
            "value": {
                "type": TYPE + slug,
                "title": title,
                "status": status,
                "detail": "the field or place: the problem; the fix",
                "instance": "urn:atelier:request:…",
            }
        }
    return responses


def documented_v2(*slugs: str) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI `responses` of a V2 route, whose errors are `{"error": "…"}`."""
    by_status: dict[int, list[str]] = {}
    for slug in slugs:
        status, title = CATALOGUE[slug]
        by_status.setdefault(V2_STATUS.get(status, status), []).append(title)
    content = {"application/json": {"example": {"error": "…"}}}
    return {
        status: {"description": "; ".join(dict.fromkeys(titles)), "content": content}
        for status, titles in sorted(by_status.items())
    }


def describe_problems(app: FastAPI) -> None:
    """Add the problem document to the schema. FastAPI adds only models that it validates."""
    generate = app.openapi
    _, definitions = models_json_schema(
        [(ProblemDocument, "serialization")], ref_template=COMPONENTS
    )

    def openapi() -> dict[str, Any]:
        schema = generate()
        schema.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
