"""Bounds what a client can make the gateway hold: no body beyond the limit, announced or not."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.problems import Problem


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
            response = self._problem().response(scope["state"]["request_id"])
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
