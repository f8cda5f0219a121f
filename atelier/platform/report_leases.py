"""Reports as Leases: a pod renews its own, and readers judge by when they saw that.

Nobody compares clocks: a report is live as long as this reader has seen its renewTime change within
the last seconds. While the reader's own API server is away nothing can be said, and what was live
counts as live.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from pydantic import ValidationError

from atelier.contract.reports import LIVE_SECONDS, Report
from atelier.errors import BadInput
from atelier.platform.api import LEASES, Api, Object
from atelier.platform.informer import Source
from atelier.platform.pod import Pod
from atelier.platform.writer import Writer

LABEL = ANNOTATION = "atelier.dev/report"
RENEW_SECONDS = 2.0

ReportT = TypeVar("ReportT", bound=Report)
Clock = Callable[[], float]


@dataclass
class _Heard:
    """When a Lease was last seen renewed, on this reader's monotonic clock."""

    renewed: str
    at: float


class ClusterReports(Generic[ReportT]):
    """The reports of one kind in a namespace. `put` needs the pod that it speaks for."""

    def __init__(
        self,
        kind: type[ReportT],
        word: str,  # `replica` or `gateway`: in names and labels
        source: Source,
        api: Api,
        pod: Pod | None = None,
        *,
        clock: Clock = time.monotonic,
    ):
        self._kind, self._word, self._source, self._api, self._pod = kind, word, source, api, pod
        self._clock = clock
        self._lock = threading.Lock()
        self._heard: dict[str, _Heard] = {}
        self._connection = 0
        self._writer: Writer | None = None
        self._told: ReportT | None = None
        self._told_at = float("-inf")

    def live(self) -> tuple[ReportT, ...]:
        """Those lately renewed; their heartbeat is then, by this reader's clock."""
        snapshot = self._source.read()
        with self._lock:
            if snapshot.connection != self._connection:  # those who report find it again, too
                self._connection, self._heard = snapshot.connection, {}
            found: list[ReportT] = []
            heard: dict[str, _Heard] = {}
            for name, lease in sorted(snapshot.objects.items()):
                report = self._parse(lease)
                if report is None:
                    continue
                heard[name] = self._hear(name, lease)
                silent = 0.0 if snapshot.trouble else self._clock() - heard[name].at
                if silent < LIVE_SECONDS:
                    found.append(report.model_copy(update={"heartbeat": time.time() - silent}))
            self._heard = heard
        return tuple(found)

    def put(self, report: ReportT) -> None:
        """Tell it, and tell it again while it is renewed: at once where it changed, else every
        two seconds. Waits for nobody; while the API server is away the newest is kept."""
        if self._pod is None:
            raise BadInput("a report is a pod's: POD_NAME and the others are not set")
        same = self._told is not None and _words(self._told) == _words(report)
        if same and self._clock() - self._told_at < 0.9 * RENEW_SECONDS:
            return
        if self._writer is None:
            self._writer = Writer(self._api, LEASES)
        self._told, self._told_at = report, self._clock()
        self._writer.put(self._lease(report, self._pod))

    def remove(self, reporter: str) -> None:
        """Withdraw the report; where that fails it goes stale, and goes with its pod."""
        writer, self._writer, self._told = self._writer or Writer(self._api, LEASES), None, None
        writer.close(self._name(reporter))

    @property
    def trouble(self) -> str:
        """Why the last report could not be told; empty where it was."""
        return self._writer.trouble if self._writer else ""

    def _hear(self, name: str, lease: Object) -> _Heard:
        renewed = str(lease.get("spec", {}).get("renewTime"))
        last = self._heard.get(name)
        return last if last and last.renewed == renewed else _Heard(renewed, self._clock())

    def _parse(self, lease: Object) -> ReportT | None:
        """A Lease that cannot be read counts as a process that is not there."""
        metadata = lease["metadata"]
        if metadata.get("labels", {}).get(LABEL) != self._word:
            return None
        try:
            return self._kind.model_validate_json(metadata.get("annotations", {})[ANNOTATION])
        except (KeyError, ValidationError):
            return None

    def _lease(self, report: ReportT, pod: Pod) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self._name(report.reporter),
                "labels": {LABEL: self._word},
                "annotations": {ANNOTATION: report.model_dump_json(exclude_defaults=True)},
                "ownerReferences": [pod.owner()],
            },
            "spec": {
                "holderIdentity": report.reporter,
                "leaseDurationSeconds": int(LIVE_SECONDS),
                "renewTime": now,
            },
        }

    def _name(self, reporter: str) -> str:
        return f"atelier-{self._word}-{reporter}"


def _words(report: Report) -> Report:
    """A report without its time."""
    return report.model_copy(update={"heartbeat": 0.0})
