"""Run the steps of an engine, in a background thread or in the thread that waits for a result."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from services.engine.request_queue import RequestQueue
from services.engine.result import DeviceLost

log = logging.getLogger(__name__)

IDLE = 0.05  # seconds between checks of loads and deadlines while no waiting request can run
LONG_IDLE = 1.0  # seconds between checks if no request waits


class StepDriver:
    """Run steps while there are requests. `step` returns False if it denoised nothing."""

    def __init__(
        self,
        step: Callable[[], bool],
        requests: RequestQueue,
        awake: threading.Event,  # set at every change that may let a request run; ends a pause
    ) -> None:
        self._step, self._requests, self._awake = step, requests, awake
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Run steps in a thread until the queue is closed and empty."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
            self._thread.start()

    @property
    def has_thread(self) -> bool:
        """Whether a thread was started; it may have ended."""
        return self._thread is not None

    def alive(self) -> bool:
        """Return whether the thread runs. Before `start`, return whether the queue is open."""
        return self._thread.is_alive() if self._thread is not None else not self._requests.closed

    def turn(self, future: Future[Any] | None = None) -> None:
        """Wait until the thread has finished `future`. Without a thread or future, run one step."""
        if self._thread is not None and future is not None:
            future.exception()
        else:
            self._awake.clear()
            if not self._step() and self._requests.waiting:
                self._awake.wait(IDLE)

    def finish(self) -> None:
        """Run steps until every request of a closed queue is answered."""
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
            except DeviceLost as error:
                log.critical("engine: %s", error)
                self._requests.close()
                self._requests.fail_all(error)
            except (
                Exception
            ) as error:  # a bug of the engine: fail the running requests and continue
                log.exception("engine: a step failed; its requests end with the error")
                self._requests.fail_all(error, waiting=False)
