"""What Prometheus reads: every label has a known, finite set of values.

Routes are labelled by their template, adapters only by names and versions that were released here;
prompts, keys and paths that nobody serves never become a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from atelier.contract.request import AdapterUse
from services.gateway.budget import GatewayBusy
from services.gateway.workers import shared_metrics

# From a refused call to the longest picture; the factor between two is at most 2.5.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)


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
            "atelier_gateway_requests_running",
            "Requests being answered.",
            registry=self.registry,
            multiprocess_mode="livesum",
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
        self.adapter_failures = Counter(
            "atelier_gateway_adapter_failures",
            "Calls that the engine failed or took too long for, for each adapter version in them.",
            ("adapter", "version"),
            registry=self.registry,
        )
        self.engine_seconds = Histogram(
            "atelier_gateway_engine_seconds",
            "Seconds that the engine took for a call that it answered.",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.pool_calls = Counter(
            "atelier_gateway_pool_calls",
            "Calls sent to each pool of replicas.",
            ("pool",),
            registry=self.registry,
        )
        self.queue_rejections = Counter(
            "atelier_gateway_queue_rejections",
            "Calls that the engine refused because its queue was full.",
            registry=self.registry,
        )
        self.pixels = Gauge(
            "atelier_gateway_pixels",
            "Pixels that are being drawn, encoded or sent.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.calls_waiting = Gauge(
            "atelier_gateway_calls_waiting",
            "Calls that wait for memory for their pictures.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.memory_rejections = Counter(
            "atelier_gateway_memory_rejections",
            "Calls refused because there was no memory for their pictures in time.",
            registry=self.registry,
        )
        self.quota_rejections = Counter(
            "atelier_gateway_quota_rejections",
            "Calls refused because the key's quota had no room.",
            registry=self.registry,
        )

    def text(self) -> bytes:
        """What Prometheus reads: of all workers, where there are several."""
        return generate_latest(shared_metrics() or self.registry)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A call that waits for memory, and whether it was refused."""
        with self.calls_waiting.track_inprogress():
            try:
                yield
            except GatewayBusy:
                self.memory_rejections.inc()
                raise

    @contextmanager
    def pixels_under_way(self, pixels: int) -> Iterator[None]:
        """Pictures from the engine to the client."""
        self.pixels.inc(pixels)
        try:
            yield
        finally:
            self.pixels.dec(pixels)

    def sent_to(self, pool: str) -> None:
        """Count a call that a pool was asked for."""
        self.pool_calls.labels(pool).inc()

    def delivered(self, images: int, adapters: Iterable[AdapterUse]) -> None:
        """Count images that were charged."""
        self.images.inc(images)
        for one in adapters:
            self.adapter_images.labels(one.name, str(one.version)).inc(images)

    def failed(self, adapters: Iterable[AdapterUse]) -> None:
        """A call that reached the engine, and of which nothing came."""
        for one in adapters:
            self.adapter_failures.labels(one.name, str(one.version)).inc()
