"""Middleware for every request: id, metrics, time limit for the response, limit for the body."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.metrics import Metrics
from services.gateway.problems import Problem, unknown_problem

logger = logging.getLogger(__name__)

METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}


class Observe:
    """Give each request an id (`X-Request-ID`), measure and log it, and handle unexpected errors.

    The response to a request with an unexpected error has the status 500.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status, started = 500, False
        began = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                started = True
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        self._metrics.running.inc()
        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            if started:
                raise  # a part of the response is sent; the server can only close the connection
            await unknown_problem(error, scope)(scope, receive, send_with_id)
        finally:
            self._metrics.running.dec()
            self._count(scope, status, time.perf_counter() - began, request_id)

    def _count(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        logger.info("%s %s %s %d %.3fs", request_id, method, route, status, seconds)


class AnswerCut(Exception):  # noqa: N818
    """A started response cannot be completed, so the connection is closed."""


class SendLimit:
    """Close the connection of a client that has not read its response within `seconds`.

    Unsent data occupies memory or an engine. The connection of a response that raises `AnswerCut`
    is closed too.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        end: float | None = None

        async def send_in_time(message: Message) -> None:
            nonlocal end
            if end is None:
                end = asyncio.get_running_loop().time() + self._seconds
            try:
                async with asyncio.timeout_at(end):
                    await send(message)
            except TimeoutError:
                text = f"the client did not read the response within {self._seconds:g} s"
                raise AnswerCut(text) from None

        try:
            await self._app(scope, receive, send_in_time)
        except AnswerCut as error:  # uvicorn closes the connection of an incomplete response
            logger.warning("request %s: %s", scope["state"]["request_id"], error)


class BodyLimit:
    """Refuse a body of more than `limit` bytes with status 413.

    A body whose Content-Length exceeds the limit is refused before it is read.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._limit:
            response = self._problem().response(scope)
            await response(scope, receive, send)
            return
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                if size > self._limit:
                    raise self._problem()
            return message

        await self._app(scope, counted, send)

    def _problem(self) -> Problem:
        # the rest of the body is not read, so the connection cannot be reused
        text = f"the body exceeds the limit of this gateway, {self._limit} bytes; send less data"
        return Problem("body-too-large", text, headers={"Connection": "close"}, limit=self._limit)
