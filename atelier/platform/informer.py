"""The objects of one kind in a namespace, as they are now or as they were known last."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from atelier.errors import AtelierError
from atelier.files import write_atomic
from atelier.platform.api import Api, ClusterAway, Expired, NotFound, Object, Query

logger = logging.getLogger(__name__)

WATCH_SECONDS = 20  # after which a watch is begun again: a dead connection is noticed by that
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds between attempts to reach an API server
FIRST_LOOK = 3.0  # seconds that the first reader waits for the first answer


@dataclass(frozen=True)
class Snapshot:
    """What is known."""

    objects: Mapping[str, Object] = field(default_factory=dict)  # by name
    known: bool = False  # whether anything was ever read, from the API server or a file
    trouble: str = ""  # why it may be out of date
    connection: int = 0  # another number each time that the API server was found again


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
        objects, _ = self._api.list(self._path, self._query)
        return Snapshot({one["metadata"]["name"]: one for one in objects}, known=True)


class Informer:
    """Lists once, then follows; a thread of its own, from the first read on.

    While the API server is away, what was known last stays, and is kept in a file for a process
    that starts meanwhile. It is written when objects come or go, and at most every `save_seconds`
    when they change.
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
        self._kept, self._save_seconds = kept, save_seconds
        self._lock = threading.Lock()
        self._snapshot = _restored(kept)
        self._saved = float("-inf")  # when, on the monotonic clock
        self._looked = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def read(self) -> Snapshot:
        with self._lock:
            if self._thread is None:
                name = self._path.rpartition("/")[2]
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
        self._looked.wait(FIRST_LOOK)
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
        self._know({one["metadata"]["name"]: _trimmed(one) for one in found}, again=True)
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
        if objects != before.objects or not before.known:
            self._save(at_once=objects.keys() != before.objects.keys())

    def _tell(self, error: AtelierError) -> None:
        before = self._snapshot
        if not before.trouble or not self._looked.is_set():
            logger.warning("%s: %s", self._path.rpartition("/")[2], error)
        since = before.trouble.rpartition("; ")[2] or f"since {datetime.now(UTC):%H:%M:%S} UTC"
        self._snapshot = Snapshot(
            before.objects, before.known, f"{error}; {since}", before.connection
        )
        self._looked.set()

    def _save(self, *, at_once: bool) -> None:
        """For a start without an API server; a disk that is full costs only that."""
        now = time.monotonic()
        if self._kept is None or (not at_once and now - self._saved < self._save_seconds):
            return
        self._saved = now
        try:
            write_atomic(self._kept, json.dumps(self._snapshot.objects))
        except OSError as error:
            logger.warning("%s cannot be kept for a restart: %s", self._kept, error)


def _restored(kept: Path | None) -> Snapshot:
    """What a process before this one knew; nothing where that cannot be read."""
    if kept is None:
        return Snapshot()
    try:
        objects = json.loads(kept.read_bytes())
        when = datetime.fromtimestamp(kept.stat().st_mtime, UTC)
        names = {name: one["metadata"]["name"] for name, one in objects.items()}
    except FileNotFoundError:
        return Snapshot()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        logger.warning("%s cannot be read: %s", kept, error)
        return Snapshot()
    told = f"this is what was known; since {when:%H:%M:%S} UTC"
    return Snapshot(objects, known=list(names) == list(names.values()), trouble=told)


def _trimmed(one: Object) -> Object:
    """Without the API server's own book-keeping, which is longer than the rest."""
    metadata = {k: v for k, v in one["metadata"].items() if k != "managedFields"}
    return {**one, "metadata": metadata}
