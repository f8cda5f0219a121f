"""FastAPI dependencies of the routes.

`create_app` creates the shared objects (`Parts`) once and stores them in `app.state`. There is no
dependency for a database session: an image takes seconds, and the session would occupy a connection
for this time. `keys` and `usage` open a session for each short transaction.
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
from services.gateway.settings import GatewaySettings
from services.gateway.usage import Meter
from services.gateway.v2 import V2

header = APIKeyHeader(
    name="X-API-Key",
    scheme_name="X-API-Key",
    description="An API key, created with `atelier keys create`.",
    auto_error=False,
)
bearer = HTTPBearer(
    scheme_name="Bearer",
    description="The same API key, as OpenAI clients send it.",
    auto_error=False,
)


@dataclass(frozen=True)
class Parts:
    """The objects that all requests of one application share."""

    settings: GatewaySettings
    keys: KeyStore
    meter: Meter
    engine: ImageEngine
    releases: ReleaseWatch
    metrics: Metrics
    generation: Generation
    v2: V2


def parts_of(request: Request) -> Parts:
    """Return the shared objects of the application of a request."""
    return cast(Parts, request.app.state.parts)


PartsDep = Annotated[Parts, Depends(parts_of)]


async def until_sent() -> AsyncIterator[AsyncExitStack]:
    """Yield a stack of resources that FastAPI closes after the response has been sent."""
    async with AsyncExitStack() as stack:
        yield stack


UntilSent = Annotated[AsyncExitStack, Depends(until_sent)]


async def current_key(
    parts: PartsDep,
    x_api_key: Annotated[str | None, Depends(header)],
    authorization: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> KeyRecord:
    """Return the record of the request's key. Raises KeyRefused if it is missing or invalid."""
    key = x_api_key or (authorization.credentials if authorization else None)
    return await run_in_threadpool(parts.keys.verify, key)


CurrentKey = Annotated[KeyRecord, Depends(current_key)]
