"""The Prometheus metrics of the gateway. Every label has a finite set of values.

The label of a route is its template. Adapter labels contain only names and versions of releases.
Prompts, keys and unknown paths never become a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from atelier.contract.request import AdapterUse
from services.gateway.budget import GatewayBusy
from services.gateway.workers import shared_metrics

# Seconds, from a refused request to the longest image. Each bound is at most 2.5 times the last.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)


class Metrics:
    """The metrics of one application. Each application of a process has its own registry."""

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
            "Seconds from the first byte of a request to the last byte of its response.",
            ("route",),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.running = Gauge(
            "atelier_gateway_requests_running",
            "Requests in flight.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.images = Counter(
            "atelier_gateway_images", "Images delivered and charged.", registry=self.registry
        )
        self.adapter_images = Counter(
            "atelier_gateway_adapter_images",
            "Images delivered, by adapter version.",
            ("adapter", "version"),
            registry=self.registry,
        )
        self.adapter_failures = Counter(
            "atelier_gateway_adapter_failures",
            "Calls that failed in the engine or timed out, by adapter version.",
            ("adapter", "version"),
            registry=self.registry,
        )
        self.engine_seconds = Histogram(
            "atelier_gateway_engine_seconds",
            "Seconds that the engine took for a successful call.",
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
            "Pixels being generated, encoded or sent.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.calls_waiting = Gauge(
            "atelier_gateway_calls_waiting",
            "Calls that wait for memory for their images.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.memory_rejections = Counter(
            "atelier_gateway_memory_rejections",
            "Calls refused because there was no memory for their images in time.",
            registry=self.registry,
        )
        self.quota_rejections = Counter(
            "atelier_gateway_quota_rejections",
            "Calls refused because they would exceed the key's quota.",
            registry=self.registry,
        )

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format, summed over all workers."""
        return generate_latest(shared_metrics() or self.registry)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count a call as waiting for memory inside the block, and count each GatewayBusy."""
        with self.calls_waiting.track_inprogress():
            try:
                yield
            except GatewayBusy:
                self.memory_rejections.inc()
                raise

    @contextmanager
    def pixels_under_way(self, pixels: int) -> Iterator[None]:
        """Count pixels as in progress inside the block."""
        self.pixels.inc(pixels)
        try:
            yield
        finally:
            self.pixels.dec(pixels)

    def sent_to(self, pool: str) -> None:
        """Count a call that is sent to a pool."""
        self.pool_calls.labels(pool).inc()

    def delivered(self, images: int, adapters: Iterable[AdapterUse]) -> None:
        """Count charged images."""
        self.images.inc(images)
        for adapter in adapters:
            self.adapter_images.labels(adapter.name, str(adapter.version)).inc(images)

    def failed(self, adapters: Iterable[AdapterUse]) -> None:
        """Count a call that failed in the engine or timed out."""
        for adapter in adapters:
            self.adapter_failures.labels(adapter.name, str(adapter.version)).inc()
