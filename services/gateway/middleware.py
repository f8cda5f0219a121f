"""What happens to every request, whatever its address: an id, a count, a bound on its body."""

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
    """Gives a request its id (`X-Request-ID`), counts it, times it, and answers for our bugs."""

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
                raise  # half an answer is out; the server can only close the connection
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
    """An answer that has begun cannot be finished: the connection is closed."""


class SendLimit:
    """Ends an answer that its client has not taken within `seconds`, and one that is `AnswerCut`.

    What is not sent yet is held in memory, or by an engine.
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
                text = f"its client did not take it within {self._seconds:g} s"
                raise AnswerCut(text) from None

        try:
            await self._app(scope, receive, send_in_time)
        except AnswerCut as error:  # an answer without its end makes the server close
            logger.warning("request %s: %s", scope["state"]["request_id"], error)


class BodyLimit:
    """Refuses a body with 413: at once where its length is announced, else when it grows over."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._limit:
            response = self._problem().response(scope)
            await response(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._limit:
                    raise self._problem()
            return message

        await self._app(scope, counted, send)

    def _problem(self) -> Problem:
        # the rest of the body is not read, so the connection cannot be used again
        text = f"a body may have at most {self._limit} bytes"
        return Problem("body-too-large", text, headers={"Connection": "close"}, limit=self._limit)
