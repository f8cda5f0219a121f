"""Reports as Leases: a pod renews its own, and readers judge by when they saw that.

No two machines' clocks are compared. A report is live as long as this reader has seen its renewTime
change within the last seconds; when the reader sees a Lease for the first time, the API server's
clock tells how long ago the API server wrote it. While the reader's own API server is away nothing
can be said, and what was live counts as live.

A Lease takes 256 KiB of annotations. A report of many adapters is a head, renewed every two
seconds, and shards, each a Lease whose name ends in the digest of its text. A shard never changes:
a reader that sees a head finds its shards or, when it was slow, a newer head.
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
class _Heard(Generic[ReportT]):
    """A head as it was last seen, and since when, on this reader's monotonic clock."""

    lease: Object
    renewed: str
    at: float
    report: ReportT | None  # None where it cannot be read


class ClusterReports(Generic[ReportT]):
    """The reports of one kind in a namespace. `put` needs the pod that it speaks for.

    The source gives heads and shards; or heads alone, and then a shard is `asked` for when somebody
    looks for an adapter in it.
    """

    def __init__(
        self,
        kind: type[ReportT],
        word: str,  # `replica` or `gateway`: in names and labels
        source: Source,
        api: Api,
        pod: Pod | None = None,
        *,
        asked: bool = False,
        clock: Clock = time.monotonic,
    ):
        self._kind, self._word, self._source, self._api, self._pod = kind, word, source, api, pod
        self._asked = asked
        self._clock = clock
        self._pool = ShardPool(kind)
        self._lock = threading.Lock()
        self._objects: Mapping[str, Object] = {}  # of the last look
        self._heard: dict[str, _Heard[ReportT]] = {}  # by the name of the Lease
        self._connection = 0
        self._writer: Writer | None = None
        self._told: ReportT | None = None
        self._told_at = float("-inf")

    def live(self) -> tuple[ReportT, ...]:
        """Those lately renewed; their heartbeat is then, by this reader's clock."""
        snapshot = self._source.read()
        with self._lock:
            if snapshot.connection != self._connection:  # those who report find it again, too
                self._connection, now = snapshot.connection, self._clock()
                self._heard = {
                    name: _Heard(one.lease, one.renewed, now, one.report)
                    for name, one in self._heard.items()
                }
            if snapshot.objects is not self._objects:
                self._objects = snapshot.objects
                self._heard = dict(sorted(self._heads(snapshot)))
            found: list[ReportT] = []
            for one in self._heard.values():
                silent = 0.0 if snapshot.trouble else self._clock() - one.at
                if one.report is not None and silent < LIVE_SECONDS:
                    heartbeat = {"heartbeat": time.time() - silent}
                    found.append(one.report.model_copy(update=heartbeat))
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
            self._writer = Writer(self._api, LEASES, renewed=_renewed, seconds=RENEW_SECONDS)
        self._told, self._told_at = report, self._clock()
        name, owner = self._name(report.reporter), self._pod.owner()
        head, texts = _words(report).split()  # its time is the Lease's
        lease = _lease(name, self._word, head.model_dump_json(exclude_defaults=True), owner)
        lease["spec"] = {
            "holderIdentity": report.reporter,
            "leaseDurationSeconds": int(LIVE_SECONDS),
        }
        label = f"{self._word}-shard"
        shards = {
            (shard := _shard_name(name, digest)): partial(_lease, shard, label, text, owner)
            for digest, text in texts.items()
        }
        self._writer.put(_renewed(lease), shards)

    def remove(self, reporter: str) -> None:
        """Withdraw the report; where that fails it goes stale, and goes with its pod."""
        writer, self._writer, self._told = self._writer or Writer(self._api, LEASES), None, None
        writer.close(self._name(reporter))

    @property
    def trouble(self) -> str:
        """Why the last report could not be told; empty where it was."""
        return self._writer.trouble if self._writer else ""

    def _heads(self, snapshot: Snapshot) -> list[tuple[str, _Heard[ReportT]]]:
        """Every head of a snapshot; one that is the same object as before is not looked at."""
        found = []
        for name, lease in snapshot.objects.items():
            last = self._heard.get(name)
            if last is None or last.lease is not lease:
                metadata = lease["metadata"]
                if metadata.get("labels", {}).get(LABEL) != self._word:
                    continue
                last = self._hear(name, lease, last, snapshot)
            found.append((name, last))
        return found

    def _hear(
        self, name: str, lease: Object, last: _Heard[ReportT] | None, snapshot: Snapshot
    ) -> _Heard[ReportT]:
        renewed = str(lease.get("spec", {}).get("renewTime"))
        if last is None:
            at = self._clock() - _age(lease, snapshot.at)
        else:
            at = last.at if last.renewed == renewed else self._clock()
        text = _text(lease)
        if last is not None and text == _text(last.lease):
            return _Heard(lease, renewed, at, last.report)
        try:
            return _Heard(lease, renewed, at, self._parse(name, text, snapshot.objects))
        except (KeyError, ValueError) as error:
            # it counts as a process that is not there
            why = f"no {error}" if isinstance(error, KeyError) else str(error)
            logger.error("Lease %s holds no report that can be read: %s", name, why)
            return _Heard(lease, renewed, at, None)

    def _parse(self, name: str, text: str | None, objects: Mapping[str, Object]) -> ReportT:
        """ValueError where that is no report, KeyError where a shard of it is not there."""
        if text is None:
            raise ValueError(f"it has no annotation {ANNOTATION}")
        head = self._kind.model_validate_json(text)
        if self._asked and head.shards:
            ask = partial(self._ask, name, head.shards)
            return self._pool.with_parts(head, _Asked(len(head.shards), ask))
        return self._pool.join(
            head, lambda digest: (_text(objects[_shard_name(name, digest)]) or "").encode()
        )

    def _ask(self, name: str, digests: Sequence[str], index: int) -> Shard[Any]:
        """A shard of a head, as the API server has it; where it has been replaced meanwhile, the
        one in its place."""
        try:
            try:
                return self._get(name, digests[index])
            except NotFound:
                text = _text(self._api.get(LEASES, name)) or ""
                now = self._kind.model_validate_json(text).shards
                if len(now) != len(digests):
                    raise
                return self._get(name, now[index])
        except (NotFound, ValueError) as error:
            told = f"{name} was written anew as it was read; look again ({error})"
            raise ClusterAway(told) from error

    def _get(self, name: str, digest: str) -> Shard[Any]:
        def text(digest: str) -> bytes:
            return (_text(self._api.get(LEASES, _shard_name(name, digest))) or "").encode()

        return self._pool.read(digest, text)

    def _name(self, reporter: str) -> str:
        return f"atelier-{self._word}-{reporter}"


class _Asked(Sequence[Shard[Any]]):
    """The shards of a report, each read when it is first looked at."""

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
            return [self[one] for one in range(*index.indices(self._count))]
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
    """The Lease, renewed now."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {**lease, "spec": {**lease["spec"], "renewTime": now}}


def _shard_name(name: str, digest: str) -> str:
    return f"{name}.{digest}"


def _text(lease: Object) -> str | None:
    found = lease["metadata"].get("annotations", {}).get(ANNOTATION)
    return None if found is None else str(found)


def _age(lease: Object, now: datetime | None) -> float:
    """Seconds since our fields of a Lease were last written, or up to two fewer; 0 where unknown.

    Both times are the API server's, in whole seconds: it dates the fields that it writes for us,
    and its answers.
    """
    times = [
        datetime.fromisoformat(one["time"])
        for one in lease["metadata"].get("managedFields", ())
        if one.get("manager") == MANAGER and one.get("time")
    ]
    return max(0.0, (now - max(times)).total_seconds() - 1.0) if now and times else 0.0


def _words(report: Report) -> Report:
    """A report without its time."""
    return report.model_copy(update={"heartbeat": 0.0})
