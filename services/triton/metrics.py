"""Publish the metrics of the engine on Triton's metrics port, with the metrics of Triton itself.

Triton serves this port. A Python model passes its metrics to Triton as individual objects. These
objects are created, set and removed to match the report of the engine.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from services.engine.stats import Labels, MetricFamily

PERIOD = 0.5  # seconds; the time of the report is in `lora_requests_info`


class Mirror:
    """Keep the metrics in Triton equal to the report of the engine."""

    def __init__(self, triton: Any, report: Callable[[], Sequence[MetricFamily]]):
        """Publish the metrics of `report`. `triton` is `triton_python_backend_utils`."""
        self._triton = triton
        self._report = report
        self._families: dict[str, Any] = {}
        self._metrics: dict[tuple[str, Labels], Any] = {}
        self._due = 0.0

    def update(self) -> None:
        """Copy the report into Triton's metrics, at most once per period."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + PERIOD
        report = self._report()
        outdated = self._remove_outdated(report)
        for family in report:
            self._set(family)
        # after the new metrics are set, so that a scrape always finds old or new metrics
        outdated.clear()

    def _remove_outdated(self, report: Sequence[MetricFamily]) -> list[Any]:
        """Remove and return the families with a metric that the report no longer contains.

        Triton frees a metric only together with its family.
        """
        present = {(family.name, sample.labels) for family in report for sample in family.samples}
        names = {name for name, labels in self._metrics if (name, labels) not in present}
        old = [key for key in self._metrics if key[0] in names]
        return [self._metrics.pop(key) for key in old] + [
            self._families.pop(name) for name in names
        ]

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
            created = families(name=family.name, description=family.help, kind=kind)
            self._families[family.name] = created
        return self._families[family.name]
