"""As much of an API server as reports and releases need, in memory, with its own clock."""

import copy
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from atelier.platform.api import MANAGER, ClusterRefused, Listing, NotFound, Object
from atelier.platform.informer import Snapshot

ANNOTATIONS = 256 * 1024  # bytes of one object's annotations together


class Cluster:
    """Objects by name; each write is remembered, and dated as Kubernetes dates fields."""

    def __init__(
        self, now: Callable[[], float] = lambda: 0.0, rules: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """With `rules` of a Role, it refuses what they do not allow."""
        self._rules = rules
        self.objects: dict[str, Object] = {}
        self.written: list[str] = []  # names, in the order of writes
        self.deleted: list[str] = []
        self.asked: list[str] = []  # names of single reads
        self._now = now

    def apply(self, path: str, body: Object) -> Object:
        self._require(path, "create", "patch")
        texts = body["metadata"].get("annotations", {})
        size = sum(len(key) + len(text.encode()) for key, text in texts.items())
        if size > ANNOTATIONS:
            raise ClusterRefused(f"metadata.annotations: Too long: {size} bytes")
        name = body["metadata"]["name"]
        known = self.objects.get(name)
        made = copy.deepcopy(body)
        fields = {"manager": MANAGER, "operation": "Apply", "time": self._time()}
        if known is not None and _plain(known) == _plain(made):
            return known  # nothing changes, nothing is dated
        made["metadata"]["managedFields"] = [fields]
        self.objects[name] = made
        self.written.append(name)
        return made

    def delete(self, path: str, name: str, *, version: str | None = None) -> None:
        self._require(path, "delete")
        self.objects.pop(name, None)
        self.deleted.append(name)

    def get(self, path: str, name: str) -> Object:
        self._require(path, "get")
        self.asked.append(name)
        if name not in self.objects:
            raise NotFound(f"{name} not found")
        return self.objects[name]

    def listing(self, path: str, query: Any = ()) -> Listing:
        """The heads of reports, as the label selector of `listing` has it, or everything."""
        self._require(path, "list")
        found = list(self.objects.values())
        if any("in (" in value for _, value in query):
            labels = [one["metadata"]["labels"]["atelier.dev/report"] for one in found]
            found = [o for o, label in zip(found, labels, strict=True) if "shard" not in label]
        return Listing(found, "1", datetime.fromisoformat(self._time()))

    def _require(self, path: str, *verbs: str) -> None:
        resource = path.rpartition("/")[2]
        allowed = {v for r in self._rules if resource in r["resources"] for v in r["verbs"]}
        if self._rules and not set(verbs) <= allowed:
            raise ClusterRefused(f"403: {', '.join(verbs)} of {resource}")

    def _time(self) -> str:
        """Whole seconds, as the API server writes them."""
        return datetime.fromtimestamp(int(self._now()), UTC).isoformat().replace("+00:00", "Z")


class Followed:
    """What a watch of a cluster knows: an object that has not changed is the same one."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._snapshot = Snapshot(known=True)
        self.connection = 1

    def read(self) -> Snapshot:
        objects = self._cluster.objects
        before = self._snapshot.objects
        same = before.keys() == objects.keys() and all(
            before[name] is one for name, one in objects.items()
        )
        if not same:
            self._snapshot = Snapshot(dict(objects), known=True, connection=self.connection)
        return self._snapshot


def _plain(one: Mapping[str, Any]) -> Object:
    metadata = {key: value for key, value in one["metadata"].items() if key != "managedFields"}
    return {**one, "metadata": metadata}
