"""Every error that leaves the gateway, as an RFC 9457 problem document of a stable type.

Known errors are translated here and nowhere else; an unknown one becomes `internal-error` with the
request's id, and its traceback goes to the log only.
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
V2_STATUS = {422: 400}  # Triton's own for what it cannot do
# What the framework refuses by itself has a status alone.
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
SIMPLE: dict[type[AtelierError], str] = {
    UnknownStyle: "unknown-style",
    AdapterLoading: "adapter-loading",
    GatewayBusy: "gateway-busy",
    triton_client.EngineBusy: "engine-busy",
    triton_client.EngineAway: "engine-away",
    triton_client.TimedOut: "timed-out",
}


class Problem(HTTPException):
    """A problem on its way out. An HTTPException, because the framework lets only those pass."""

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
        """The answer to a request: a problem document, or what V2's clients understand."""
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
    """The problem that a known error is told as."""
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
    if isinstance(error, DatabaseAway):  # its text names the database, which is not for clients
        text = "keys and usage cannot be looked up now"
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
    return Problem("internal-error", "a fault of ours; the operator finds it by this id")


def invalid(errors: Sequence[tuple[str, str]]) -> Problem:
    """Fields that cannot be used, each with the reason."""
    detail = "; ".join(f"{field}: {message}" if field else message for field, message in errors)
    listed = [{"field": field, "message": message} for field, message in errors]
    return Problem("invalid-request", detail, errors=listed)


def install(app: FastAPI) -> None:
    """Give the application one answer for each kind of error."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, AtelierError)
        problem = problem_of(error)
        told = isinstance(error, Unavailable) and not isinstance(error, DatabaseAway)
        if problem.status_code >= 500 and not told:
            logger.error("request %s: %s", request_id(request), error, exc_info=error)
        return problem.response(request.scope)

    async def of_framework(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return _of_http(request, error).response(request.scope)

    async def of_body(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _of_validation(request, error).response(request.scope)

    app.add_exception_handler(AtelierError, known)
    app.add_exception_handler(HTTPException, of_framework)
    app.add_exception_handler(RequestValidationError, of_body)


def unknown_problem(error: Exception, scope: Scope) -> JSONResponse:
    """The answer to a bug of ours: the client gets the id, the log the traceback."""
    logger.error("request %s failed", scope["state"]["request_id"], exc_info=error)
    problem = Problem("internal-error", "a fault of ours; the operator finds it by this id")
    return problem.response(scope)


def request_id(request: Request) -> str:
    """The id that the request's log lines and its answer share."""
    return str(request.scope.get("state", {}).get("request_id", "unknown"))


def _of_http(request: Request, error: HTTPException) -> Problem:
    if isinstance(error, Problem):
        return error
    path, method = request.url.path, request.method
    details = {
        404: f"there is nothing at {path}; /docs lists what there is",
        405: f"{path} does not take {method}",
    }
    slug = OF_FRAMEWORK.get(error.status_code, "internal-error")
    detail = details.get(error.status_code, str(error.detail))
    return Problem(slug, detail, headers=error.headers)


def _of_validation(request: Request, error: RequestValidationError) -> Problem:
    kinds = {one["type"] for one in error.errors()}
    if "json_invalid" in kinds:
        cause = error.errors()[0].get("ctx", {}).get("error", "syntax error")
        return Problem("malformed-json", f"the body is not JSON: {cause}")
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and not media_type.endswith("json"):
        text = f"send the body with Content-Type: application/json, not {media_type or 'none'!r}"
        return Problem("unsupported-media-type", text)
    found = [{**one, "loc": _in_body(one["loc"])} for one in error.errors()]
    refused = mistakes(found, model=_body_model(request), values=True)
    return invalid([(one.field[:100], one.text) for one in refused])


def _in_body(loc: Sequence[int | str]) -> Sequence[int | str]:
    return loc[1:] if loc[:1] == ("body",) else loc


def _body_model(request: Request) -> type[BaseModel] | None:
    """The model of the route's body, for a hint at a misspelt field."""
    field = getattr(request.scope.get("route"), "body_field", None)
    found = getattr(getattr(field, "field_info", None), "annotation", None)
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def _named(text: str) -> tuple[str, str]:
    """The field that a refusal's text begins with, as `steps: 0 is not within 1 and 150`."""
    field, colon, message = text.partition(": ")
    return (field, message) if colon and field.isidentifier() else ("", text)
