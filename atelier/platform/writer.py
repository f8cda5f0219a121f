"""Writing of objects in a thread, so an unavailable API server does not delay the process."""

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

PAUSE = 1.0  # seconds until a failed write is tried again, with the newest objects
LAST_WORD = 3.0  # seconds that `close` waits for an unfinished write


@dataclass(frozen=True)
class _Written:
    """Objects to write: the parts, then the head that names them."""

    head: Object
    parts: Mapping[str, Callable[[], Object]]  # by name; parts of equal name are equal


class Writer:
    """Applies a head and the parts that it names; versions between two writes are skipped.

    A part never changes: it is written once, before the head, and deleted after a head that does
    not name it. While many parts are written, `renewed` updates the previous head, which is still
    correct, every `seconds`.
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
        self._there: set[str] = set()  # written parts
        self._head: Object | None = None  # the last applied head
        self._head_at = float("-inf")
        self.trouble = ""

    def put(self, head: Object, parts: Mapping[str, Callable[[], Object]] | None = None) -> None:
        """Write this head and its parts next, without waiting for the write."""
        with self._news:
            self._next = _Written(head, parts or {})
            self._news.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="report", daemon=True)
                self._thread.start()

    def close(self, name: str) -> None:
        """Stop writing, and delete the head `name` and its parts."""
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
                    break  # deleted with their pod
                self._api.delete(self._path, part)
        except AtelierError as error:
            logger.warning("%s: is not deleted: %s", name, error)

    @property
    def idle(self) -> bool:
        """Whether the newest head and its parts are written."""
        with self._news:
            return self._next is None and not self._busy

    def _run(self) -> None:
        while True:
            with self._news:
                self._busy = False
                self._news.wait_for(lambda: self._ended or self._next is not None)
                if self._ended:
                    return
                work, self._next, self._busy = self._next, None, True
            assert work is not None
            try:
                self._write(work)
            except AtelierError as error:
                self._tell(work.head["metadata"]["name"], error)
                with self._news:
                    self._next = self._next or work
                    self._news.wait_for(lambda: self._ended, PAUSE)
            else:
                if self.trouble:
                    logger.info("%s: is published again", work.head["metadata"]["name"])
                self.trouble = ""

    def _write(self, work: _Written) -> None:
        for name in sorted(work.parts.keys() - self._there):
            self._api.apply(self._path, work.parts[name]())
            self._there.add(name)
            if self._ended:
                return
            if self._head is not None and time.monotonic() - self._head_at > self._seconds:
                if self._next is None:
                    continue  # no newer `put`, so the head may be outdated
                self._apply_head(self._renewed(self._head))
        self._apply_head(work.head)
        for name in sorted(self._there - work.parts.keys()):
            with suppress(AtelierError):  # no reader needs it
                self._api.delete(self._path, name)
            self._there.discard(name)

    def _apply_head(self, head: Object) -> None:
        self._api.apply(self._path, head)
        self._head, self._head_at = head, time.monotonic()

    def _tell(self, name: str, error: AtelierError) -> None:
        """Log an error once for each text: a refusal, which is permanent, as an error."""
        if str(error) == self.trouble:
            return
        if isinstance(error, ClusterRefused):
            logger.error("%s: is refused, so this process counts as absent: %s", name, error)
        elif not self.trouble:
            logger.warning("%s: cannot be published: %s", name, error)
        self.trouble = str(error)
