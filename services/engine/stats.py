"""Counters and gauges of an engine, and their Prometheus metrics."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

PREFIX = "atelier_engine_"


@dataclass
class EngineStats:
    """Counters since the engine started, and gauges that `Engine.stats` sets.

    Times are in seconds, sizes in bytes.
    """

    requests: Counter[str] = field(default_factory=Counter)  # by outcome
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))  # by phase
    images: int = 0
    calls: int = 0  # UNet calls
    rows: int = 0  # rows of the UNet calls, without padding
    out_of_memory: int = 0  # network calls that ran out of memory
    swaps: int = 0  # adapters written into a slot
    queued: int = 0  # requests in the queue
    running: int = 0  # images in progress
    slots: int = 0
    slots_in_use: int = 0
    bank_bytes: int = 0
    host_bytes: int = 0
    running_adapters: tuple[str, ...] = ()
    waiting_adapters: tuple[str, ...] = ()
    began: float = field(default_factory=time.monotonic)
    last_images: list[float] = field(
        default_factory=list
    )  # end times of the last 32 images, in monotonic seconds

    def swapped(self, seconds: float) -> None:
        """Record that adapters were written into a slot."""
        self.swaps += 1
        self.seconds["swap"] += seconds

    def called(self, rows: int, seconds: float) -> None:
        """Record one UNet call."""
        self.calls += 1
        self.rows += rows
        self.seconds["denoise"] += seconds

    def finished(self, images: int) -> None:
        """Record one answered request."""
        self.requests["done"] += 1
        self.images += images
        self.last_images = [*self.last_images, *[time.monotonic()] * images][-32:]

    def seconds_per_image(self) -> float:
        """Return the mean seconds per image of the last 32 images, or 1 before the second image."""
        if len(self.last_images) < 2:
            return 1.0
        return (self.last_images[-1] - self.last_images[0]) / (len(self.last_images) - 1)


Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sample:
    """One value of a metric, with its labels."""

    labels: Labels
    value: float


@dataclass(frozen=True)
class MetricFamily:
    """A Prometheus metric with all its samples."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: tuple[Sample, ...]


def metrics(stats: EngineStats) -> tuple[MetricFamily, ...]:
    """Return the Prometheus metrics of an engine.

    `lora_requests_info` follows the Gateway API Inference Extension's model server protocol for
    adapter-aware routing: the names are in its labels, the value is the Unix time in seconds.
    """
    adapters = (
        ("max_lora", str(stats.slots)),
        ("running_lora_adapters", ",".join(stats.running_adapters)),
        ("waiting_lora_adapters", ",".join(stats.waiting_adapters)),
    )
    return (
        MetricFamily(
            "lora_requests_info",
            "gauge",
            "Running and waiting adapters; the value is the time of the report.",
            (Sample(adapters, time.time()),),
        ),
        _counter("images_total", "Images generated.", stats.images),
        _counter("unet_calls_total", "UNet calls.", stats.calls),
        _counter("unet_rows_total", "Rows of the UNet calls, without padding.", stats.rows),
        _counter(
            "out_of_memory_total", "Network calls that ran out of memory.", stats.out_of_memory
        ),
        _counter("adapter_swaps_total", "Adapters written into a slot.", stats.swaps),
        _gauge("requests_waiting", "Requests in the queue.", stats.queued),
        _gauge("images_running", "Images in progress.", stats.running),
        _gauge("slots_in_use", "Slots of the bank in use.", stats.slots_in_use),
        _gauge("bank_bytes", "Device memory of the bank.", stats.bank_bytes),
        _gauge("host_bytes", "Host memory of adapters.", stats.host_bytes),
        _by_label("requests_total", "Answered requests, by outcome.", "outcome", stats.requests),
        _by_label("seconds_total", "Seconds spent, by phase.", "phase", stats.seconds),
    )


def _counter(name: str, help: str, value: float) -> MetricFamily:
    return MetricFamily(PREFIX + name, "counter", help, (Sample((), value),))


def _gauge(name: str, help: str, value: float) -> MetricFamily:
    return MetricFamily(PREFIX + name, "gauge", help, (Sample((), value),))


def _by_label(name: str, help: str, label: str, values: Mapping[str, float]) -> MetricFamily:
    # Copied, because the engine thread changes the values concurrently.
    samples = tuple(Sample(((label, key),), value) for key, value in sorted([*values.items()]))
    return MetricFamily(PREFIX + name, "counter", help, samples)
