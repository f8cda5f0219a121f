"""The objects of one kind in a namespace: their current or last known state."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from atelier.errors import AtelierError
from atelier.platform.api import Api, ClusterAway, Expired, NotFound, Object, Query
from atelier.platform.keeping import KeptObjects

logger = logging.getLogger(__name__)

WATCH_SECONDS = 20  # duration of a watch; a dead connection is detected at its end
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds between attempts to reach an API server
FIRST_LOOK = 3.0  # seconds that the first reader waits for the first listing
FULL_DISK_PAUSE = 60.0  # seconds until a failed save is tried again


@dataclass(frozen=True)
class Snapshot:
    """A state of the objects. Unchanged objects are shared with later snapshots."""

    objects: Mapping[str, Object] = field(default_factory=dict)  # by name
    known: bool = False  # whether the state was read from the API server or a file
    trouble: str = ""  # why the state may be out of date
    connection: int = 0  # changes with each new listing
    at: datetime | None = None  # time of the listing, by the API server's clock


class Source(Protocol):
    """A source of the objects of one kind."""

    def read(self) -> Snapshot:
        """Return the current snapshot."""
        ...


class Listed:
    """Lists the objects at each reading."""

    def __init__(self, api: Api, path: str, query: Query = ()):
        self._api, self._path, self._query = api, path, query

    def read(self) -> Snapshot:
        """List the objects. Raises the errors of `Api.listing`."""
        listing = self._api.listing(self._path, self._query)
        objects = {item["metadata"]["name"]: item for item in listing.objects}
        return Snapshot(objects, known=True, at=listing.at)


class Informer:
    """Lists the objects once, then watches them, in a thread that the first read starts.

    While the API server is unavailable, the last known state stays. The state is also saved in the
    file `kept`, for a process that starts during this time. It is saved at most every
    `save_seconds`, and when the API server becomes unavailable.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        query: Query = (),
        *,
        kept: Path | None = None,
        save_seconds: float = 0.0,
    ):
        self._api, self._path, self._query = api, path, query
        self._kept = KeptObjects(kept) if kept else None
        self._save_seconds = save_seconds
        self._lock = threading.Lock()  # of the thread and the file
        self._snapshot = Snapshot()
        self._save_at = float("-inf")  # on the monotonic clock
        self._looked = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def read(self) -> Snapshot:
        """Return the last known state; the first call waits for one, up to `FIRST_LOOK` seconds."""
        with self._lock:
            if self._thread is None:
                name = self._path.rpartition("/")[2]
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
        if not self._looked.wait(FIRST_LOOK):
            self._restore()
        return self._snapshot

    def close(self) -> None:
        """Stop watching, without waiting for the thread."""
        self._ended.set()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._ended.is_set():
            connection = self._snapshot.connection
            try:
                self._follow()
            except AtelierError as error:
                self._tell(error)
            except Exception as error:  # a bug must not end the thread
                logger.exception("watching %s failed", self._path)
                self._tell(ClusterAway(f"watching {self._path}: {error}"))
            reached = self._snapshot.connection != connection
            pause = FIRST_PAUSE if reached else min(2 * pause, LONGEST_PAUSE)
            self._ended.wait(pause)

    def _follow(self) -> None:
        """List, then watch repeatedly, until an error or an expired version."""
        try:
            listed, version = self._api.list(self._path, self._query)
        except NotFound:  # the kind is not installed, so there are no objects
            self._know({}, again=True)
            self._ended.wait(LONGEST_PAUSE)
            return
        before = self._snapshot.objects
        objects = (_trimmed(item) for item in listed)
        self._know({item["metadata"]["name"]: _same(item, before) for item in objects}, again=True)
        while not self._ended.is_set():
            try:
                version = self._watch(version)
            except Expired:
                return

    def _watch(self, version: str) -> str:
        """Watch once; return the version to watch from next."""
        events = self._api.watch(self._path, self._query, version, seconds=WATCH_SECONDS)
        for kind, item in events:
            version = item["metadata"]["resourceVersion"]
            if kind != "BOOKMARK":
                objects = dict(self._snapshot.objects)
                name = item["metadata"]["name"]
                if kind == "DELETED":
                    objects.pop(name, None)
                else:
                    objects[name] = _trimmed(item)
                self._know(objects)
            if self._ended.is_set():
                break
        return version

    def _know(self, objects: Mapping[str, Object], *, again: bool = False) -> None:
        before = self._snapshot
        if before.trouble:
            logger.info("%s: the API server answers again", self._path.rpartition("/")[2])
        connection = before.connection + 1 if again else before.connection
        self._snapshot = Snapshot(objects, known=True, connection=connection)
        self._looked.set()
        self._save()

    def _tell(self, error: AtelierError) -> None:
        self._restore()
        before = self._snapshot
        if not before.trouble or not self._looked.is_set():
            logger.warning("%s: %s", self._path.rpartition("/")[2], error)
        since = before.trouble.rpartition("; ")[2] or f"since {datetime.now(UTC):%H:%M:%S} UTC"
        self._snapshot = Snapshot(
            before.objects, before.known, f"{error}; {since}", before.connection
        )
        self._looked.set()
        self._save(at_once=True)

    def _restore(self) -> None:
        """Load the state that an earlier process saved, if there is no state yet."""
        with self._lock:
            if self._kept is not None and not self._snapshot.known:
                self._snapshot = _restored(self._kept)

    def _save(self, *, at_once: bool = False) -> None:
        """Save the state for a start without an API server; a full disk is only logged."""
        if self._kept is None or not self._snapshot.known:
            return
        with self._lock:
            objects, now = self._snapshot.objects, time.monotonic()
            if objects is self._kept.saved or (now < self._save_at and not at_once):
                return
            self._save_at = now + self._save_seconds
            try:
                self._kept.save(objects)
            except OSError as error:
                name = self._path.rpartition("/")[2]
                logger.warning("%s: cannot be saved for a restart: %s", name, error)
                self._save_at = now + FULL_DISK_PAUSE


def _restored(kept: KeptObjects) -> Snapshot:
    """Return the state that an earlier process saved; an empty one if it cannot be read."""
    restored = kept.restore()
    if restored is None:
        return Snapshot()
    trouble = f"the state is the last one saved; since {restored.at:%H:%M:%S} UTC"
    return Snapshot(restored.objects, known=True, trouble=trouble)


def _same(item: Object, earlier: Mapping[str, Object]) -> Object:
    """Return the earlier object if it is equal, else `item`."""
    before = earlier.get(item["metadata"]["name"])
    return before if before is not None and before == item else item


def _trimmed(item: Object) -> Object:
    """Return an object without `managedFields`, which are longer than the rest."""
    metadata = {k: v for k, v in item["metadata"].items() if k != "managedFields"}
    return {**item, "metadata": metadata}
