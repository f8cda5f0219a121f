"""What routes ask for by type. The parts are made once, by `create_app`, and live in its state.

There is no database session among them: a picture takes seconds, and a session held for that long
would be a connection that nobody else can use. `keys` and `usage` open one for each short step.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from services.gateway.generation import Generation, ImageEngine
from services.gateway.keys import KeyRecord, KeyStore
from services.gateway.metrics import Metrics
from services.gateway.releases import ReleaseWatch
from services.gateway.settings import Settings
from services.gateway.usage import Meter
from services.gateway.v2 import V2

header = APIKeyHeader(
    name="X-API-Key",
    scheme_name="X-API-Key",
    description="A key of `atelier keys create`.",
    auto_error=False,
)
bearer = HTTPBearer(
    scheme_name="Bearer", description="The same key, as OpenAI's clients send it.", auto_error=False
)


@dataclass(frozen=True)
class Parts:
    """Everything that one application is made of."""

    settings: Settings
    keys: KeyStore
    meter: Meter
    engine: ImageEngine
    releases: ReleaseWatch
    metrics: Metrics
    generation: Generation
    v2: V2


def parts_of(request: Request) -> Parts:
    """The parts of the application that this request came to."""
    return cast(Parts, request.app.state.parts)


PartsDep = Annotated[Parts, Depends(parts_of)]


async def until_sent() -> AsyncIterator[AsyncExitStack]:
    """What has to be kept until the answer is sent: FastAPI leaves the block only then."""
    async with AsyncExitStack() as stack:
        yield stack


UntilSent = Annotated[AsyncExitStack, Depends(until_sent)]


async def current_key(
    parts: PartsDep,
    x_api_key: Annotated[str | None, Depends(header)],
    authorization: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> KeyRecord:
    """The key that the call holds, looked up anew each time."""
    key = x_api_key or (authorization.credentials if authorization else None)
    return await run_in_threadpool(parts.keys.verify, key)


CurrentKey = Annotated[KeyRecord, Depends(current_key)]
