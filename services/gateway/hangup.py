"""A client that hangs up: nobody is to draw for it any more."""

from __future__ import annotations

from fastapi import Request

CLIENT_CLOSED = 499  # nginx's number for it; nobody is there to read it but the log


async def hung_up(request: Request) -> None:
    """Returns when the client has closed its connection; to be called once the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
