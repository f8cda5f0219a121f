"""What an engine has done and is doing, in numbers; the source of its metrics."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class EngineStats:
    """Counters since the engine was made, and gauges as of the last look. Seconds and bytes."""

    requests: Counter[str] = field(default_factory=Counter)  # by outcome
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))  # by phase
    images: int = 0
    calls: int = 0  # of the UNet
    rows: int = 0  # of those calls, without padding
    swaps: int = 0  # adapters written into a slot
    queued: int = 0
    running: int = 0  # images being drawn
    slots: int = 0
    slots_in_use: int = 0
    bank_bytes: int = 0
    host_bytes: int = 0
    running_adapters: tuple[str, ...] = ()
    waiting_adapters: tuple[str, ...] = ()
    began: float = field(default_factory=time.monotonic)
    last_images: list[float] = field(default_factory=list)  # when the last ones were done

    def swapped(self, seconds: float) -> None:
        """One adapter written into a slot."""
        self.swaps += 1
        self.seconds["swap"] += seconds

    def called(self, rows: int, seconds: float) -> None:
        """One UNet call."""
        self.calls += 1
        self.rows += rows
        self.seconds["denoise"] += seconds

    def finished(self, images: int) -> None:
        """One request answered."""
        self.requests["done"] += 1
        self.images += images
        self.last_images = [*self.last_images, *[time.monotonic()] * images][-32:]

    def seconds_per_image(self) -> float:
        """The pace of the last images, or one second before there is any."""
        if len(self.last_images) < 2:
            return 1.0
        return (self.last_images[-1] - self.last_images[0]) / (len(self.last_images) - 1)


def metrics(stats: EngineStats) -> str:
    """Prometheus' text format.

    `lora_requests_info` follows the Gateway API Inference Extension's contract for adapter-aware
    routing: the names are in its labels, its value is the time of the report.
    """
    lines = [
        "# HELP lora_requests_info Adapters running and waiting; the value is the report's time.",
        "# TYPE lora_requests_info gauge",
        _sample(
            "lora_requests_info",
            {
                "max_lora": str(stats.slots),
                "running_lora_adapters": ",".join(stats.running_adapters),
                "waiting_lora_adapters": ",".join(stats.waiting_adapters),
            },
            time.time(),
        ),
    ]
    for name, kind, help_text, value in (
        ("images_total", "counter", "Images made.", stats.images),
        ("unet_calls_total", "counter", "Calls of the UNet.", stats.calls),
        ("unet_rows_total", "counter", "Rows of those calls.", stats.rows),
        ("adapter_swaps_total", "counter", "Adapters written into a slot.", stats.swaps),
        ("requests_waiting", "gauge", "Requests in the queue.", stats.queued),
        ("images_running", "gauge", "Images being drawn.", stats.running),
        ("slots_in_use", "gauge", "Slots of the bank in use.", stats.slots_in_use),
        ("bank_bytes", "gauge", "Device memory of the bank.", stats.bank_bytes),
        ("host_bytes", "gauge", "Host memory of adapters.", stats.host_bytes),
    ):
        full = f"atelier_engine_{name}"
        lines += [f"# HELP {full} {help_text}", f"# TYPE {full} {kind}", _sample(full, {}, value)]
    for name, label, help_text, counts in (
        ("requests_total", "outcome", "Requests answered.", stats.requests),
        ("seconds_total", "phase", "Time spent.", stats.seconds),
    ):
        full = f"atelier_engine_{name}"
        lines += [f"# HELP {full} {help_text}", f"# TYPE {full} counter"]
        lines += [_sample(full, {label: key}, value) for key, value in sorted(counts.items())]
    return "\n".join(lines) + "\n"


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    quoted = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{quoted}}} {value}" if quoted else f"{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
