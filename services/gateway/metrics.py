"""What Prometheus reads, and the middleware that counts: every label has a known, finite set.

Routes are labelled by their template, adapters only by names and versions that were released here;
prompts, keys and paths that nobody serves never become a label.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.triton import AdapterCall

logger = logging.getLogger(__name__)

# From a refused call to the longest picture; the factor between two is at most 2.5.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}


class Metrics:
    """One registry for each application, so that two in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "atelier_gateway_requests",
            "Answered HTTP requests.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "atelier_gateway_request_seconds",
            "Seconds from a request's first byte to its answer's last.",
            ("route",),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.running = Gauge(
            "atelier_gateway_requests_running", "Requests being answered.", registry=self.registry
        )
        self.images = Counter(
            "atelier_gateway_images", "Images delivered and charged.", registry=self.registry
        )
        self.adapter_images = Counter(
            "atelier_gateway_adapter_images",
            "Images delivered, for each adapter version in them.",
            ("adapter", "version"),
            registry=self.registry,
        )
        self.engine_seconds = Histogram(
            "atelier_gateway_engine_seconds",
            "Seconds that the engine took for a call that it answered.",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.queue_rejections = Counter(
            "atelier_gateway_queue_rejections",
            "Calls that the engine refused because its queue was full.",
            registry=self.registry,
        )
        self.quota_rejections = Counter(
            "atelier_gateway_quota_rejections",
            "Calls refused because the key's quota had no room.",
            registry=self.registry,
        )

    def delivered(self, images: int, adapters: Iterable[AdapterCall]) -> None:
        """Count images that were charged."""
        self.images.inc(images)
        for one in adapters:
            self.adapter_images.labels(one.name, str(one.version)).inc(images)


class Observe:
    """Gives every request an id (`X-Request-ID`), counts it and times it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 500
        began = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        self._metrics.running.inc()
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            self._metrics.running.dec()
            self._count(scope, status, time.perf_counter() - began, request_id)

    def _count(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        logger.info("%s %s %s %d %.3fs", request_id, method, route, status, seconds)
