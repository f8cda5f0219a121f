"""`/healthz`, `/readyz` and `/metrics`, for probes and Prometheus. They need no key."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool

from services.gateway.database import DatabaseAway
from services.gateway.deps import Parts, PartsDep
from services.gateway.schemas import Health

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Health:
    """Report that the process is alive.

    The check does not include engine and database: a restart of the gateway would not repair them.
    """
    return Health(status="ok")


@router.get(
    "/readyz",
    responses={503: {"model": Health, "description": "The engine or the database is unavailable."}},
)
async def readyz(parts: PartsDep, response: Response) -> Health:
    """Check whether the image engine and the database are available."""
    engine, database = await asyncio.gather(parts.engine.ready(), _database_ready(parts))
    checks = {"engine": engine, "database": database}
    if not all(checks.values()):
        response.status_code = 503
        response.headers["Retry-After"] = "1"
        return Health(status="unready", checks=checks)
    return Health(status="ok", checks=checks)


@router.get("/metrics", include_in_schema=False)
async def metrics(parts: PartsDep) -> Response:
    """Return the metrics in the text format of Prometheus."""
    return Response(parts.metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def _database_ready(parts: Parts) -> bool:
    try:
        await run_in_threadpool(parts.keys.ping)
    except DatabaseAway:
        return False
    return True
