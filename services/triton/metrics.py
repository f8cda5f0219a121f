"""The engine's metrics at Triton's own metrics port, beside Triton's.

Triton owns that port, and takes a Python model's metrics one object at a time. So the engine's
report is mirrored: what it emits appears, what it no longer names goes.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

PERIOD = 0.5  # seconds; the report's own time is in `lora_requests_info`
_SAMPLE = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}


@dataclass(frozen=True)
class Sample:
    """One number of a report in Prometheus' text format."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


@dataclass(frozen=True)
class Report:
    """A whole report: help and kind by family, and the samples."""

    help: Mapping[str, str]
    kinds: Mapping[str, str]
    samples: tuple[Sample, ...]

    @classmethod
    def read(cls, text: str) -> "Report":
        """Read the text format's counters and gauges; other kinds are not the engine's."""
        told: dict[str, dict[str, str]] = {"HELP": {}, "TYPE": {}}
        samples = []
        for line in text.splitlines():
            if line.startswith("# "):
                _, word, name, rest = line.split(" ", 3)
                told[word][name] = rest
            elif found := _SAMPLE.match(line):
                samples.append(_sample(found))
        return cls(told["HELP"], told["TYPE"], tuple(samples))


class Mirror:
    """Keeps Triton's metrics as the report says; `triton` is its Python backend's module."""

    def __init__(self, triton: Any, report: Callable[[], str]):
        self._triton = triton
        self._report = report
        self._families: dict[str, Any] = {}
        self._metrics: dict[tuple[str, tuple[tuple[str, str], ...]], Any] = {}
        self._due = 0.0

    def update(self) -> None:
        """Mirror the report, at most once a period."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + PERIOD
        report = Report.read(self._report())
        outdated = self._forget_families(report)
        for sample in report.samples:
            self._set(report, sample)
        outdated.clear()  # only now: a scrape in between would find neither the old nor the new

    def _forget_families(self, report: Report) -> list[Any]:
        """Take out the families that have a metric which the report no longer names.

        Triton lets go of a metric only together with its family.
        """
        present = {(sample.name, sample.labels) for sample in report.samples}
        names = {name for name, labels in self._metrics if (name, labels) not in present}
        old = [key for key in self._metrics if key[0] in names]
        return [self._metrics.pop(key) for key in old] + [self._families.pop(n) for n in names]

    def _set(self, report: Report, sample: Sample) -> None:
        key = (sample.name, sample.labels)
        if key not in self._metrics:
            family = self._family(report, sample.name)
            self._metrics[key] = family.Metric(labels=dict(sample.labels))
        metric = self._metrics[key]
        if report.kinds[sample.name] == "counter":
            metric.increment(max(0.0, sample.value - metric.value()))
        else:
            metric.set(sample.value)

    def _family(self, report: Report, name: str) -> Any:
        if name not in self._families:
            families = self._triton.MetricFamily
            kind = families.COUNTER if report.kinds[name] == "counter" else families.GAUGE
            made = families(name=name, description=report.help.get(name, name), kind=kind)
            self._families[name] = made
        return self._families[name]


def _sample(found: re.Match[str]) -> Sample:
    labels = tuple(
        (key, re.sub(r'\\[n"\\]', lambda escaped: _ESCAPED[escaped.group()], value))
        for key, value in _LABEL.findall(found["labels"] or "")
    )
    return Sample(found["name"], labels, float(found["value"]))
