"""Reports as Leases, each renewed by its pod.

Clocks of different machines are never compared. A report is live if its renewTime has changed in
the last `LIVE_SECONDS` by this reader's clock. At the first reading of a Lease, its age is the
difference of two times of the API server. While the API server is unavailable, the reports that
were live count as live.

A Lease takes 256 KiB of annotations. A report of many adapters consists of a head, renewed every
two seconds, and shards, each a Lease whose name ends in the digest of its text. A shard never
changes: a reader of a head finds its shards or, if it is slow, a newer head.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Generic, TypeVar, overload

from atelier.contract.reports import LIVE_SECONDS, Report
from atelier.contract.shards import Shard, ShardPool
from atelier.errors import BadInput
from atelier.platform.api import LEASES, MANAGER, Api, ClusterAway, NotFound, Object
from atelier.platform.informer import Snapshot, Source
from atelier.platform.pod import Pod
from atelier.platform.writer import Writer

logger = logging.getLogger(__name__)

LABEL = ANNOTATION = "atelier.dev/report"
RENEW_SECONDS = 2.0

ReportT = TypeVar("ReportT", bound=Report)
Clock = Callable[[], float]


@dataclass(frozen=True)
class _Entry(Generic[ReportT]):
    """A head at the last reading, and the time of its last change on the monotonic clock."""

    lease: Object
    renewed: str
    at: float
    report: ReportT | None  # None if it is unreadable


class ClusterReports(Generic[ReportT]):
    """The reports of one kind in a namespace. `put` needs the `pod` of this process.

    The source gives heads and shards. If `lazy`, it gives only heads, and a shard is requested
    from the API server at the first access to it.
    """

    def __init__(
        self,
        kind: type[ReportT],
        role: str,  # `replica` or `gateway`, used in names and labels
        source: Source,
        api: Api,
        pod: Pod | None = None,
        *,
        lazy: bool = False,
        clock: Clock = time.monotonic,
    ):
        self._kind, self._role, self._source, self._api, self._pod = kind, role, source, api, pod
        self._lazy = lazy
        self._clock = clock
        self._pool = ShardPool(kind)
        self._lock = threading.Lock()
        self._objects: Mapping[str, Object] = {}  # of the last reading
        self._entries: dict[str, _Entry[ReportT]] = {}  # by the name of the Lease
        self._connection = 0
        self._writer: Writer | None = None
        self._published: ReportT | None = None
        self._published_at = float("-inf")

    def live(self) -> tuple[ReportT, ...]:
        """Return the reports renewed in the last `LIVE_SECONDS`.

        The heartbeat of each report is the time of its renewal, by this reader's clock.
        """
        snapshot = self._source.read()
        with self._lock:
            if snapshot.connection != self._connection:  # the other pods are also reconnecting
                self._connection, now = snapshot.connection, self._clock()
                self._entries = {
                    name: _Entry(entry.lease, entry.renewed, now, entry.report)
                    for name, entry in self._entries.items()
                }
            if snapshot.objects is not self._objects:
                self._objects = snapshot.objects
                self._entries = dict(sorted(self._heads(snapshot)))
            reports: list[ReportT] = []
            for entry in self._entries.values():
                age = 0.0 if snapshot.trouble else self._clock() - entry.at
                if entry.report is not None and age < LIVE_SECONDS:
                    heartbeat = {"heartbeat": time.time() - age}
                    reports.append(entry.report.model_copy(update=heartbeat))
        return tuple(reports)

    def put(self, report: ReportT) -> None:
        """Publish a report at once if it has changed, else every `RENEW_SECONDS`.

        Does not wait for the API server; while it is unavailable, the newest report is kept. Raises
        BadInput without a pod.
        """
        if self._pod is None:
            raise BadInput(
                "report: this process has no pod to report for; set POD_NAME, POD_NAMESPACE, "
                "POD_UID and POD_IP from the downward API"
            )
        last = self._published
        same = last is not None and _without_time(last) == _without_time(report)
        if same and self._clock() - self._published_at < 0.9 * RENEW_SECONDS:
            return
        if self._writer is None:
            self._writer = Writer(self._api, LEASES, renewed=_renewed, seconds=RENEW_SECONDS)
        self._published, self._published_at = report, self._clock()
        name, owner = self._name(report.reporter), self._pod.owner()
        head, texts = _without_time(report).split()  # the Lease contains the time
        lease = _lease(name, self._role, head.model_dump_json(exclude_defaults=True), owner)
        lease["spec"] = {
            "holderIdentity": report.reporter,
            "leaseDurationSeconds": int(LIVE_SECONDS),
        }
        label = f"{self._role}-shard"
        shards = {
            (shard := _shard_name(name, digest)): partial(_lease, shard, label, text, owner)
            for digest, text in texts.items()
        }
        self._writer.put(_renewed(lease), shards)

    def remove(self, reporter: str) -> None:
        """Delete the report. If this fails, the report expires, and is deleted with its pod."""
        writer = self._writer or Writer(self._api, LEASES)
        self._writer, self._published = None, None
        writer.close(self._name(reporter))

    @property
    def trouble(self) -> str:
        """The error of the last report; empty if it was published."""
        return self._writer.trouble if self._writer else ""

    def _heads(self, snapshot: Snapshot) -> list[tuple[str, _Entry[ReportT]]]:
        """Return all heads of a snapshot. Objects of the previous snapshot are not parsed again."""
        heads = []
        for name, lease in snapshot.objects.items():
            entry = self._entries.get(name)
            if entry is None or entry.lease is not lease:
                metadata = lease["metadata"]
                if metadata.get("labels", {}).get(LABEL) != self._role:
                    continue
                entry = self._read(name, lease, entry, snapshot)
            heads.append((name, entry))
        return heads

    def _read(
        self, name: str, lease: Object, last: _Entry[ReportT] | None, snapshot: Snapshot
    ) -> _Entry[ReportT]:
        renewed = str(lease.get("spec", {}).get("renewTime"))
        if last is None:
            at = self._clock() - _age(lease, snapshot.at)
        else:
            at = last.at if last.renewed == renewed else self._clock()
        text = _text(lease)
        if last is not None and text == _text(last.lease):
            return _Entry(lease, renewed, at, last.report)
        try:
            return _Entry(lease, renewed, at, self._parse(name, text, snapshot.objects))
        except (KeyError, ValueError) as error:
            # without a report, the process counts as absent
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            logger.error(
                "Lease %s: contains no readable report, so its process counts as absent: %s",
                name,
                reason,
            )
            return _Entry(lease, renewed, at, None)

    def _parse(self, name: str, text: str | None, objects: Mapping[str, Object]) -> ReportT:
        """Parse a head. Raises ValueError if it is invalid, KeyError if a shard is missing."""
        if text is None:
            raise ValueError(f"it has no annotation {ANNOTATION}")
        head = self._kind.model_validate_json(text)
        if self._lazy and head.shards:
            request = partial(self._request, name, head.shards)
            return self._pool.with_parts(head, _LazyShards(len(head.shards), request))
        return self._pool.join(
            head, lambda digest: (_text(objects[_shard_name(name, digest)]) or "").encode()
        )

    def _request(self, name: str, digests: Sequence[str], index: int) -> Shard[Any]:
        """Get a shard of a head from the API server, or the shard that has replaced it."""
        try:
            try:
                return self._get(name, digests[index])
            except NotFound:
                text = _text(self._api.get(LEASES, name)) or ""
                newer = self._kind.model_validate_json(text).shards
                if len(newer) != len(digests):
                    raise
                return self._get(name, newer[index])
        except (NotFound, ValueError) as error:
            raise ClusterAway(f"{name}: changed during reading; try again ({error})") from error

    def _get(self, name: str, digest: str) -> Shard[Any]:
        def text(digest: str) -> bytes:
            return (_text(self._api.get(LEASES, _shard_name(name, digest))) or "").encode()

        return self._pool.read(digest, text)

    def _name(self, reporter: str) -> str:
        return f"atelier-{self._role}-{reporter}"


class _LazyShards(Sequence[Shard[Any]]):
    """The shards of a report, each read at the first access."""

    def __init__(self, count: int, read: Callable[[int], Shard[Any]]):
        self._count, self._read = count, read
        self._known: dict[int, Shard[Any]] = {}

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Shard[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Shard[Any]]: ...
    def __getitem__(self, index: int | slice) -> Shard[Any] | Sequence[Shard[Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        if index not in self._known:
            self._known[index] = self._read(index)
        return self._known[index]


def _lease(name: str, label: str, text: str | bytes, owner: Object) -> Object:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "labels": {LABEL: label},
            "annotations": {ANNOTATION: text if isinstance(text, str) else text.decode()},
            "ownerReferences": [owner],
        },
    }


def _renewed(lease: Object) -> Object:
    """Return the Lease with the current time as renewTime."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {**lease, "spec": {**lease["spec"], "renewTime": now}}


def _shard_name(name: str, digest: str) -> str:
    return f"{name}.{digest}"


def _text(lease: Object) -> str | None:
    text = lease["metadata"].get("annotations", {}).get(ANNOTATION)
    return None if text is None else str(text)


def _age(lease: Object, now: datetime | None) -> float:
    """Return the seconds since this project wrote its fields of a Lease, at most two too few.

    Both times are from the clock of the API server, in whole seconds: one from the managedFields of
    the Lease, one from the response. Returns 0 if the age is unknown.
    """
    times = [
        datetime.fromisoformat(fields["time"])
        for fields in lease["metadata"].get("managedFields", ())
        if fields.get("manager") == MANAGER and fields.get("time")
    ]
    return max(0.0, (now - max(times)).total_seconds() - 1.0) if now and times else 0.0


def _without_time(report: Report) -> Report:
    """Return a report without its heartbeat."""
    return report.model_copy(update={"heartbeat": 0.0})
