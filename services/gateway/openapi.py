"""What `/docs` says about errors: every route's problem documents, each with an example."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from atelier.contract.problems import CATALOGUE, MEDIA_TYPE, TYPE
from services.gateway.problems import V2_STATUS
from services.gateway.schemas import ProblemDocument

COMPONENTS = "#/components/schemas/{model}"


def documented(*slugs: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for the problems that a route may answer with."""
    found: dict[int | str, dict[str, Any]] = {}
    for slug in slugs:
        status, title = CATALOGUE[slug]
        schema = {"$ref": COMPONENTS.format(model=ProblemDocument.__name__)}
        empty = {"description": "", "content": {MEDIA_TYPE: {"schema": schema, "examples": {}}}}
        entry = found.setdefault(status, empty)
        entry["description"] = ", ".join(filter(None, [entry["description"], f"`{slug}`"]))
        entry["content"][MEDIA_TYPE]["examples"][slug] = {
            "value": {
                "type": TYPE + slug,
                "title": title,
                "status": status,
                "detail": "what happened, and what to do about it",
                "instance": "urn:atelier:request:…",
            }
        }
    return found


def documented_v2(*slugs: str) -> dict[int | str, dict[str, Any]]:
    """The same for a route of V2, whose errors are `{"error": "…"}`."""
    titles: dict[int, list[str]] = {}
    for slug in slugs:
        status, title = CATALOGUE[slug]
        titles.setdefault(V2_STATUS.get(status, status), []).append(title)
    content = {"application/json": {"example": {"error": "…"}}}
    return {
        status: {"description": "; ".join(dict.fromkeys(found)), "content": content}
        for status, found in sorted(titles.items())
    }


def describe_problems(app: FastAPI) -> None:
    """Add the problem document to the schema: the framework adds only what it validates itself."""
    generate = app.openapi
    _, definitions = models_json_schema(
        [(ProblemDocument, "serialization")], ref_template=COMPONENTS
    )

    def openapi() -> dict[str, Any]:
        schema = generate()
        schema.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
