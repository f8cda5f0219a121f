"""Who takes an engine's steps: a thread of its own, or the caller that waits for an answer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from services.engine.request_queue import RequestQueue

log = logging.getLogger(__name__)

IDLE = 0.05  # seconds between looks at loads and deadlines while nothing can run
LONG_IDLE = 1.0  # seconds, where no request waits either


class StepDriver:
    """Takes steps as long as there are requests. `step` returns False where it did nothing."""

    def __init__(
        self,
        step: Callable[[], bool],
        requests: RequestQueue,
        awake: threading.Event,  # set by whoever changes something, which ends a pause
    ) -> None:
        self._step, self._requests, self._awake = step, requests, awake
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Takes steps in a thread until the queue is closed and empty."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
            self._thread.start()

    @property
    def has_thread(self) -> bool:
        """Whether a thread has been started, running or ended."""
        return self._thread is not None

    def alive(self) -> bool:
        """Whether requests are (or, before `start`, can be) worked on."""
        return self._thread.is_alive() if self._thread is not None else not self._requests.closed

    def turn(self, future: Future[Any] | None = None) -> None:
        """Lets work go on: waits for the thread's answer, or takes a step where there is none."""
        if self._thread is not None and future is not None:
            future.exception()
        else:
            self._awake.clear()
            if not self._step() and self._requests.waiting:
                self._awake.wait(IDLE)

    def finish(self) -> None:
        """Takes steps until every request of a closed queue is answered."""
        self._awake.set()
        if self._thread is not None:
            self._thread.join()
        while not self._requests.empty:
            self.turn()

    def _loop(self) -> None:
        while not (self._requests.closed and self._requests.empty):
            self._awake.clear()
            try:
                if not self._step():
                    self._awake.wait(IDLE if self._requests.waiting else LONG_IDLE)
            except Exception as error:  # a fault of the engine's own: those in flight pay, once
                log.exception("engine: a step failed")
                self._requests.fail_all(error, waiting=False)
