"""Build the FastAPI application: its parts, middleware and routes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

from fastapi import FastAPI

import atelier
from atelier.stores.environment import Environment
from services.gateway.balance import Balancer
from services.gateway.budget import PixelBudget
from services.gateway.database import Database
from services.gateway.deps import Parts
from services.gateway.docs import install_docs
from services.gateway.environment_source import environment_source, reporter_name
from services.gateway.generation import Generation, ImageEngine
from services.gateway.keys import KeyStore
from services.gateway.metrics import Metrics
from services.gateway.middleware import BodyLimit, Observe, SendLimit
from services.gateway.openapi import describe_problems
from services.gateway.problems import install
from services.gateway.releases import ReleaseWatch
from services.gateway.replicas import Replicas
from services.gateway.routes import health, images, models, usage, v2
from services.gateway.settings import GatewaySettings
from services.gateway.usage import Meter
from services.gateway.v2 import V2

DESCRIPTION = """
Generates images with a base model and its LoRA adapters. Requests need an API key (`X-API-Key` or
`Authorization: Bearer`), which the operator creates with `atelier keys create`. Errors are RFC 9457
problem documents with a stable `type`; below `/v2` an error is `{"error": "…"}`.
"""


def create_app(settings: GatewaySettings, *, engine: ImageEngine | None = None) -> FastAPI:
    """Return the gateway for these settings. Tests pass an `engine` in place of Triton."""
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = Database(settings.database_url)
        database.prepare()
        parts = _parts(settings, environment_source(settings), database, engine, metrics)
        await parts.releases.refresh()
        watching = asyncio.create_task(parts.releases.run(), name="releases")
        app.state.parts = parts
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            parts.releases.close()
            await parts.engine.close()
            await parts.v2.replicas.close()
            database.close()

    app = FastAPI(
        title="Atelier",
        version=atelier.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # see install_docs, which needs no CDN
        redoc_url=None,
    )
    # The middleware added last is the outermost, so a refused body also has an id and is counted.
    app.add_middleware(BodyLimit, limit=settings.body_limit)
    app.add_middleware(Observe, metrics=metrics)
    app.add_middleware(SendLimit, seconds=settings.request_timeout)
    install(app)
    for routes in (images, usage, models, v2, health):
        app.include_router(routes.router)
    install_docs(app)
    describe_problems(app)
    return app


def _parts(
    settings: GatewaySettings,
    environment: Environment,
    database: Database,
    engine: ImageEngine | None,
    metrics: Metrics,
) -> Parts:
    lifetime = timedelta(seconds=settings.reservation_lifetime)
    releases = ReleaseWatch(environment, poll=settings.poll, name=reporter_name(settings))
    meter = Meter(database, lifetime=lifetime)
    replicas = Replicas(
        Balancer(lambda: releases.fleet),
        settings.model,
        default=None if settings.kubernetes else settings.triton_url,
        counted=metrics.sent_to,
    )
    budget = PixelBudget(
        settings.picture_pixels, queue=settings.picture_queue, wait=settings.picture_wait
    )
    engine = engine or replicas
    return Parts(
        settings=settings,
        keys=KeyStore(database),
        meter=meter,
        engine=engine,
        releases=releases,
        metrics=metrics,
        generation=Generation(settings, engine, releases, meter, metrics, budget),
        v2=V2(settings, replicas, releases, meter, metrics),
    )
