"""The objects of one kind in a namespace, as they are now or as they were known last."""

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

WATCH_SECONDS = 20  # after which a watch is begun again: a dead connection is noticed by that
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds between attempts to reach an API server
FIRST_LOOK = 3.0  # seconds that the first reader waits for the first answer
FULL_DISK_PAUSE = 60.0  # seconds until what could not be kept is written again


@dataclass(frozen=True)
class Snapshot:
    """What is known. An object that has not changed since is the same one in a later snapshot."""

    objects: Mapping[str, Object] = field(default_factory=dict)  # by name
    known: bool = False  # whether anything was ever read, from the API server or a file
    trouble: str = ""  # why it may be out of date
    connection: int = 0  # another number each time that the API server was found again
    at: datetime | None = None  # when it was listed, by the API server's clock


class Source(Protocol):
    """Objects of one kind."""

    def read(self) -> Snapshot:
        """What is known now."""
        ...


class Listed:
    """Asks anew each time; the API server's errors are the reader's."""

    def __init__(self, api: Api, path: str, query: Query = ()):
        self._api, self._path, self._query = api, path, query

    def read(self) -> Snapshot:
        found = self._api.listing(self._path, self._query)
        objects = {one["metadata"]["name"]: one for one in found.objects}
        return Snapshot(objects, known=True, at=found.at)


class Informer:
    """Lists once, then follows; a thread of its own, from the first read on.

    While the API server is away, what was known last stays, and is kept in a file for a process
    that starts meanwhile. Changes are written at most every `save_seconds`, and when it goes away.
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
        with self._lock:
            if self._thread is None:
                name = self._path.rpartition("/")[2]
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
        if not self._looked.wait(FIRST_LOOK):
            self._restore()
        return self._snapshot

    def close(self) -> None:
        """Follow no longer; waits for no answer."""
        self._ended.set()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._ended.is_set():
            connection = self._snapshot.connection
            try:
                self._follow()
            except AtelierError as error:
                self._tell(error)
            except Exception as error:  # a bug must not end all later looks
                logger.exception("watching %s failed", self._path)
                self._tell(ClusterAway(f"watching {self._path}: {error}"))
            reached = self._snapshot.connection != connection
            pause = FIRST_PAUSE if reached else min(2 * pause, LONGEST_PAUSE)
            self._ended.wait(pause)

    def _follow(self) -> None:
        """List, then watch, again and again, until something goes wrong."""
        try:
            found, version = self._api.list(self._path, self._query)
        except NotFound:  # the kind itself is not installed: there are none, and no trouble
            self._know({}, again=True)
            self._ended.wait(LONGEST_PAUSE)
            return
        before = self._snapshot.objects
        objects = (_trimmed(one) for one in found)
        self._know({one["metadata"]["name"]: _same(one, before) for one in objects}, again=True)
        while not self._ended.is_set():
            try:
                version = self._watch(version)
            except Expired:
                return

    def _watch(self, version: str) -> str:
        """One watch to its end; the version to go on from."""
        events = self._api.watch(self._path, self._query, version, seconds=WATCH_SECONDS)
        for kind, one in events:
            version = one["metadata"]["resourceVersion"]
            if kind != "BOOKMARK":
                objects = dict(self._snapshot.objects)
                name = one["metadata"]["name"]
                if kind == "DELETED":
                    objects.pop(name, None)
                else:
                    objects[name] = _trimmed(one)
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
        """Know what a process before this one knew, where this one knows nothing yet."""
        with self._lock:
            if self._kept is not None and not self._snapshot.known:
                self._snapshot = _restored(self._kept)

    def _save(self, *, at_once: bool = False) -> None:
        """For a start without an API server; a disk that is full costs only that."""
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
                logger.warning("%s cannot be kept for a restart: %s", name, error)
                self._save_at = now + FULL_DISK_PAUSE


def _restored(kept: KeptObjects) -> Snapshot:
    """What a process before this one knew; nothing where that cannot be read."""
    found = kept.restore()
    if found is None:
        return Snapshot()
    told = f"this is what was known; since {found.at:%H:%M:%S} UTC"
    return Snapshot(found.objects, known=True, trouble=told)


def _same(one: Object, known: Mapping[str, Object]) -> Object:
    """The object as it was known before, where it has not changed."""
    before = known.get(one["metadata"]["name"])
    return before if before is not None and before == one else one


def _trimmed(one: Object) -> Object:
    """Without the API server's own book-keeping, which is longer than the rest."""
    metadata = {k: v for k, v in one["metadata"].items() if k != "managedFields"}
    return {**one, "metadata": metadata}
