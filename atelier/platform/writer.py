"""Writes objects beside its process, so that an API server that is away delays nobody."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from atelier.errors import AtelierError
from atelier.platform.api import Api, ClusterRefused, Object

logger = logging.getLogger(__name__)

PAUSE = 1.0  # seconds until a write that failed is tried again, with what is newest then
LAST_WORD = 3.0  # seconds that a process which ends waits for a write that is under way


@dataclass(frozen=True)
class _Written:
    """What is to be written: the parts before the head that names them."""

    head: Object
    parts: Mapping[str, Callable[[], Object]]  # by name; of one name all are alike


class Writer:
    """Applies the newest of what it was given; what came between two writes is skipped.

    That is a head and the parts that it names. A part never changes: it is written once, before the
    head, and deleted after the head that no longer names it. While many parts are written the head
    before is `renewed` every `seconds`, as it is still true.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        *,
        renewed: Callable[[Object], Object] = lambda head: head,
        seconds: float = float("inf"),
    ):
        self._api, self._path = api, path
        self._renewed, self._seconds = renewed, seconds
        self._news = threading.Condition()
        self._next: _Written | None = None
        self._busy = False
        self._ended = False
        self._thread: threading.Thread | None = None
        self._there: set[str] = set()  # parts that are written
        self._head: Object | None = None  # as it was applied last
        self._head_at = float("-inf")
        self.trouble = ""

    def put(self, head: Object, parts: Mapping[str, Callable[[], Object]] | None = None) -> None:
        """Write these next."""
        with self._news:
            self._next = _Written(head, parts or {})
            self._news.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="report", daemon=True)
                self._thread.start()

    def close(self, name: str) -> None:
        """Write no more, and take the head of that name away, then its parts."""
        with self._news:
            self._ended, self._next = True, None
            self._news.notify()
        if self._thread is not None:
            self._thread.join(LAST_WORD)
        end = time.monotonic() + LAST_WORD
        try:
            self._api.delete(self._path, name)
            for part in self._there.copy():
                if time.monotonic() > end:
                    break  # they go with their pod
                self._api.delete(self._path, part)
        except AtelierError as error:
            logger.warning("%s is not taken away: %s", name, error)

    @property
    def idle(self) -> bool:
        """Whether everything that was given is written."""
        with self._news:
            return self._next is None and not self._busy

    def _run(self) -> None:
        while True:
            with self._news:
                self._busy = False
                self._news.wait_for(lambda: self._ended or self._next is not None)
                if self._ended:
                    return
                given, self._next, self._busy = self._next, None, True
            assert given is not None
            try:
                self._write(given)
            except AtelierError as error:
                self._tell(given.head["metadata"]["name"], error)
                with self._news:
                    self._next = self._next or given
                    self._news.wait_for(lambda: self._ended, PAUSE)
            else:
                if self.trouble:
                    logger.info("%s is told again", given.head["metadata"]["name"])
                self.trouble = ""

    def _write(self, given: _Written) -> None:
        for name in sorted(given.parts.keys() - self._there):
            self._api.apply(self._path, given.parts[name]())
            self._there.add(name)
            if self._ended:
                return
            if self._head is not None and time.monotonic() - self._head_at > self._seconds:
                if self._next is None:
                    continue  # nobody has said meanwhile that it is so
                self._apply_head(self._renewed(self._head))
        self._apply_head(given.head)
        for name in sorted(self._there - given.parts.keys()):
            with suppress(AtelierError):  # nobody reads it any more
                self._api.delete(self._path, name)
            self._there.discard(name)

    def _apply_head(self, head: Object) -> None:
        self._api.apply(self._path, head)
        self._head, self._head_at = head, time.monotonic()

    def _tell(self, name: str, error: AtelierError) -> None:
        """Once for each reason: a refusal is an error that does not pass by itself."""
        if str(error) == self.trouble:
            return
        if isinstance(error, ClusterRefused):
            logger.error("%s is refused, so others take this process for dead: %s", name, error)
        elif not self.trouble:
            logger.warning("%s cannot be told: %s", name, error)
        self.trouble = str(error)
