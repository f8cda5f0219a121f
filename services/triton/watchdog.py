"""The watchdog thread of the process of the model, for events that Triton does not report."""

import logging
import os
import threading
from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

PERIOD = 0.1  # seconds; a cancelled request occupies the engine at most this long after its step
ORPHANED = 70  # EX_SOFTWARE: the exit status of a model without a server


class Watchdog:
    """Call every task once per period, and end this process if its Triton server has ended.

    Without it, the model process would keep running, with the weights in memory, if the Triton
    server is killed.
    """

    def __init__(
        self, tasks: Sequence[Callable[[], object]], *, server: int, period: float = PERIOD
    ):
        """Prepare to call `tasks` every `period` seconds after `start`.

        `server` is the process id of Triton. The caller reads it before it loads the base, because
        Triton may end during the load.
        """
        self._tasks = tasks
        self._server = server
        self._period = period
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._period):
            if os.getppid() != self._server:
                os._exit(ORPHANED)
            for task in self._tasks:
                try:
                    task()
                except Exception:  # an error in one task must not end the others
                    logger.exception("triton: a task of the watchdog failed")
