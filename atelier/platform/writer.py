"""Writes one object beside its process, so that an API server that is away delays nobody."""

from __future__ import annotations

import logging
import threading

from atelier.errors import AtelierError
from atelier.platform.api import Api, Object

logger = logging.getLogger(__name__)

PAUSE = 1.0  # seconds until a write that failed is tried again, with what is newest then
LAST_WORD = 3.0  # seconds that a process which ends waits for a write that is under way


class Writer:
    """Applies the newest of what it was given; what came between two writes is skipped."""

    def __init__(self, api: Api, path: str):
        self._api, self._path = api, path
        self._news = threading.Condition()
        self._next: Object | None = None
        self._ended = False
        self._thread: threading.Thread | None = None
        self.trouble = ""

    def put(self, body: Object) -> None:
        """Write this next."""
        with self._news:
            self._next = body
            self._news.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="report", daemon=True)
                self._thread.start()

    def close(self, name: str) -> None:
        """Write no more, and take the object of that name away."""
        with self._news:
            self._ended, self._next = True, None
            self._news.notify()
        if self._thread is not None:
            self._thread.join(LAST_WORD)
        try:
            self._api.delete(self._path, name)
        except AtelierError as error:
            logger.warning("%s is not taken away: %s", name, error)

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._ended or self._next is not None)
                if self._ended:
                    return
                body, self._next = self._next, None
            assert body is not None
            try:
                self._api.apply(self._path, body)
            except AtelierError as error:
                if not self.trouble:
                    logger.warning("%s cannot be told: %s", body["metadata"]["name"], error)
                self.trouble = str(error)
                with self._news:
                    self._next = self._next or body
                    self._news.wait_for(lambda: self._ended, PAUSE)
            else:
                if self.trouble:
                    logger.info("%s is told again", body["metadata"]["name"])
                self.trouble = ""
