"""`GET /v1/models`: the released adapters, in the format of OpenAI's model list."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter

from atelier.contract.replica import Replica
from services.gateway.deps import CurrentKey, PartsDep
from services.gateway.openapi import documented
from services.gateway.reasons import reason_for_clients
from services.gateway.routing import Route
from services.gateway.schemas import ModelCard, ModelList

BASE = "base"

router = APIRouter(tags=["models"])


@router.get(
    "/v1/models",
    responses=documented("key-missing", "key-wrong", "key-expired", "key-revoked", "database-away"),
)
async def models(parts: PartsDep, _key: CurrentKey) -> ModelList:
    """List the base and every released adapter, with its serving version, trigger and styles."""
    replicas = parts.releases.replicas
    bases = {replica.base for replica in replicas}
    cards = [ModelCard(id=BASE, created=0, digest=digest) for digest in sorted(bases)]
    routes = sorted(parts.releases.routes.items())
    cards += [_model(name, route, replicas) for name, route in routes]
    return ModelList(data=cards)


def _model(name: str, route: Route, replicas: Sequence[Replica]) -> ModelCard:
    serving = route.serving
    created = int(route.release.since.timestamp())
    trouble = reason_for_clients(route.release, replicas) if route.trouble else None
    if serving is None:
        return ModelCard(id=name, created=created, ready=False, trouble=trouble)
    return ModelCard(
        id=name,
        created=created,
        version=serving.version,
        versions=sorted({*route.at_hand, serving.version}),
        digest=serving.digest,
        trigger=serving.manifest.trigger,
        styles=serving.manifest.styles,
        trouble=trouble,
    )
