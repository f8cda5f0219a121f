"""Translate errors to RFC 9457 problem documents with a stable type.

An unexpected error becomes `internal-error` with the id of the request. Its traceback goes to the
log only.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Scope

from atelier.contract.problems import CATALOGUE, MEDIA_TYPE, TYPE
from atelier.errors import AtelierError, BadInput, Unavailable
from atelier.validation import mistakes
from services.gateway import triton_client
from services.gateway.budget import GatewayBusy
from services.gateway.database import DatabaseAway
from services.gateway.keys import KeyRefused
from services.gateway.prompts import PromptError, UnknownStyle
from services.gateway.releases import AdapterLoading, UnreleasedAdapter
from services.gateway.usage import QuotaExceeded

logger = logging.getLogger(__name__)

V2 = "/v2"
V2_STATUS = {422: 400}  # the status of Triton for an invalid request
# FastAPI's own errors have a status but no slug.
OF_FRAMEWORK = {
    CATALOGUE[name].status: name
    for name in (
        "bad-request",
        "forbidden",
        "not-found",
        "method-not-allowed",
        "not-acceptable",
        "body-too-large",
        "unsupported-media-type",
    )
}
INTERNAL = "internal error; report the X-Request-ID of this response to the operator"
SIMPLE: dict[type[AtelierError], str] = {
    UnknownStyle: "unknown-style",
    AdapterLoading: "adapter-loading",
    GatewayBusy: "gateway-busy",
    triton_client.EngineBusy: "engine-busy",
    triton_client.EngineAway: "engine-away",
    triton_client.TimedOut: "timed-out",
}


class Problem(HTTPException):
    """A problem to send to the client.

    It is an HTTPException, because FastAPI passes only HTTPExceptions to the exception handlers.
    """

    def __init__(
        self,
        slug: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        status, self.title = CATALOGUE[slug]
        super().__init__(status, detail, dict(headers or {}))
        self.slug = slug
        self.members = members

    def response(self, scope: Scope) -> JSONResponse:
        """Return the response: a problem document, or `{"error": "…"}` below `/v2`."""
        if str(scope.get("path", "")).startswith(V2):
            return JSONResponse(
                {"error": self.detail},
                V2_STATUS.get(self.status_code, self.status_code),
                self.headers,
            )
        request_id = scope.get("state", {}).get("request_id", "unknown")
        body = {
            "type": TYPE + self.slug,
            "title": self.title,
            "status": self.status_code,
            "detail": self.detail,
            "instance": f"urn:atelier:request:{request_id}",
            **self.members,
        }
        return JSONResponse(body, self.status_code, self.headers, media_type=MEDIA_TYPE)


def problem_of(error: AtelierError) -> Problem:
    """Return the problem for an error of the gateway."""
    headers = {}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after or 1)))
    if isinstance(error, KeyRefused):
        fault = "" if error.reason == "missing" else ', error="invalid_token"'
        headers["WWW-Authenticate"] = f'Bearer realm="atelier"{fault}'
        return Problem(f"key-{error.reason}", str(error), headers=headers)
    if isinstance(error, QuotaExceeded):
        usage = error.usage
        return Problem(
            "quota-exceeded",
            str(error),
            quota=usage.quota,
            images=usage.used,
            in_progress=usage.reserved,
        )
    if isinstance(error, UnreleasedAdapter):
        return Problem("unknown-adapter", str(error), known=error.known)
    if isinstance(error, DatabaseAway):  # the error names the database, which clients must not see
        text = "the database of keys and usage is unavailable; try again later"
        return Problem("database-away", text, headers=headers)
    for kind, slug in SIMPLE.items():
        if isinstance(error, kind):
            return Problem(slug, str(error), headers=headers)
    if isinstance(error, (triton_client.RequestRefused, PromptError)):
        return invalid([_named(str(error))])
    if isinstance(error, triton_client.EngineFailed):
        return Problem("engine-failed", "the image engine failed; the operator's log has the cause")
    if isinstance(error, Unavailable):
        return Problem("engine-away", str(error), headers=headers)
    if isinstance(error, BadInput):
        return Problem("bad-request", str(error))
    return Problem("internal-error", INTERNAL)


def invalid(errors: Sequence[tuple[str, str]]) -> Problem:
    """Return the problem for invalid fields, each with its message."""
    detail = "; ".join(f"{field}: {message}" if field else message for field, message in errors)
    members = [{"field": field, "message": message} for field, message in errors]
    return Problem("invalid-request", detail, errors=members)


def install(app: FastAPI) -> None:
    """Add the exception handlers to the application."""

    async def of_atelier(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, AtelierError)
        problem = problem_of(error)
        complete = isinstance(error, Unavailable) and not isinstance(error, DatabaseAway)
        if problem.status_code >= 500 and not complete:  # the client does not see the cause
            logger.error("request %s: %s", request_id(request), error, exc_info=error)
        return problem.response(request.scope)

    async def of_framework(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return _of_http(request, error).response(request.scope)

    async def of_body(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _of_validation(request, error).response(request.scope)

    app.add_exception_handler(AtelierError, of_atelier)
    app.add_exception_handler(HTTPException, of_framework)
    app.add_exception_handler(RequestValidationError, of_body)


def unknown_problem(error: Exception, scope: Scope) -> JSONResponse:
    """Log an unexpected error with its traceback, and return a problem without the traceback."""
    logger.error("request %s failed", scope["state"]["request_id"], exc_info=error)
    return Problem("internal-error", INTERNAL).response(scope)


def request_id(request: Request) -> str:
    """Return the id of the request, which its log lines and its response contain."""
    return str(request.scope.get("state", {}).get("request_id", "unknown"))


def _of_http(request: Request, error: HTTPException) -> Problem:
    if isinstance(error, Problem):
        return error
    path, method = request.url.path, request.method
    details = {
        404: f"{path}: no such route; see /docs",
        405: f"{path}: the method {method} is not allowed; see /docs",
    }
    slug = OF_FRAMEWORK.get(error.status_code, "internal-error")
    detail = details.get(error.status_code, str(error.detail))
    return Problem(slug, detail, headers=error.headers)


def _of_validation(request: Request, error: RequestValidationError) -> Problem:
    kinds = {fault["type"] for fault in error.errors()}
    if "json_invalid" in kinds:
        cause = error.errors()[0].get("ctx", {}).get("error", "syntax error")
        return Problem("malformed-json", f"the body is not valid JSON: {cause}")
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and not media_type.endswith("json"):
        text = f"Content-Type: is {media_type or 'none'!r}; send application/json"
        return Problem("unsupported-media-type", text)
    faults = [{**fault, "loc": _in_body(fault["loc"])} for fault in error.errors()]
    errors = mistakes(faults, model=_body_model(request), values=True)
    return invalid([(mistake.field[:100], mistake.text) for mistake in errors])


def _in_body(loc: Sequence[int | str]) -> Sequence[int | str]:
    return loc[1:] if loc[:1] == ("body",) else loc


def _body_model(request: Request) -> type[BaseModel] | None:
    """Return the model of the route's body, for hints at misspelt fields."""
    field = getattr(request.scope.get("route"), "body_field", None)
    model = getattr(getattr(field, "field_info", None), "annotation", None)
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _named(text: str) -> tuple[str, str]:
    """Split a text such as `steps: 0 is not within 1 and 150` into field and message.

    The field may be empty.
    """
    field, colon, message = text.partition(": ")
    return (field, message) if colon and field.isidentifier() else ("", text)
