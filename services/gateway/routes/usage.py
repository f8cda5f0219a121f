"""`GET /api_key_usage`: the usage of the request's API key."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from services.gateway.deps import CurrentKey, PartsDep
from services.gateway.openapi import documented
from services.gateway.schemas import ApiKeyUsage

router = APIRouter(tags=["keys"])


@router.get(
    "/api_key_usage",
    responses=documented("key-missing", "key-wrong", "key-expired", "key-revoked", "database-away"),
)
async def api_key_usage(parts: PartsDep, key: CurrentKey) -> ApiKeyUsage:
    """Return the numbers of images that are delivered, in progress, and left of the key's quota."""
    usage = await run_in_threadpool(parts.meter.usage, key)
    return ApiKeyUsage(
        key=key.prefix,
        name=key.name,
        images=usage.used,
        in_progress=usage.reserved,
        quota=usage.quota,
        remaining=usage.remaining,
        created_at=key.created_at,
        expires_at=key.expires_at,
    )
