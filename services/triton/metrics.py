"""The engine's metrics at Triton's own metrics port, beside Triton's.

Triton owns that port, and takes a Python model's metrics one object at a time. So the engine's
report is mirrored: what it names appears, what it no longer names goes.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from services.engine.stats import Labels, MetricFamily

PERIOD = 0.5  # seconds; the report's own time is in `lora_requests_info`


class Mirror:
    """Keeps Triton's metrics as the report says; `triton` is its Python backend's module."""

    def __init__(self, triton: Any, report: Callable[[], Sequence[MetricFamily]]):
        self._triton = triton
        self._report = report
        self._families: dict[str, Any] = {}
        self._metrics: dict[tuple[str, Labels], Any] = {}
        self._due = 0.0

    def update(self) -> None:
        """Mirror the report, at most once a period."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + PERIOD
        report = self._report()
        outdated = self._forget_families(report)
        for family in report:
            self._set(family)
        outdated.clear()  # only now: a scrape in between would find neither the old nor the new

    def _forget_families(self, report: Sequence[MetricFamily]) -> list[Any]:
        """Take out the families that have a metric which the report no longer names.

        Triton lets go of a metric only together with its family.
        """
        present = {(family.name, one.labels) for family in report for one in family.samples}
        names = {name for name, labels in self._metrics if (name, labels) not in present}
        old = [key for key in self._metrics if key[0] in names]
        return [self._metrics.pop(key) for key in old] + [self._families.pop(n) for n in names]

    def _set(self, family: MetricFamily) -> None:
        for sample in family.samples:
            key = (family.name, sample.labels)
            if key not in self._metrics:
                self._metrics[key] = self._family(family).Metric(labels=dict(sample.labels))
            metric = self._metrics[key]
            if family.kind == "counter":
                metric.increment(max(0.0, sample.value - metric.value()))
            else:
                metric.set(sample.value)

    def _family(self, family: MetricFamily) -> Any:
        if family.name not in self._families:
            families = self._triton.MetricFamily
            kind = families.COUNTER if family.kind == "counter" else families.GAUGE
            made = families(name=family.name, description=family.help, kind=kind)
            self._families[family.name] = made
        return self._families[family.name]
