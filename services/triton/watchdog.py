"""The thread beside the engine: it notices what Triton does not tell its Python model."""

import logging
import os
import threading
from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

PERIOD = 0.1  # seconds; a cancelled request costs at most this long beyond its step
ORPHANED = 70  # EX_SOFTWARE: the exit status of a model without a server


class Watchdog:
    """Calls every chore each period, and ends this process when the server is gone.

    A Python model of a killed server lives on otherwise, with the weights in its memory.
    """

    def __init__(
        self, chores: Sequence[Callable[[], object]], *, server: int, period: float = PERIOD
    ):
        """`server` is the parent process, noted before the long load that it may not survive."""
        self._chores = chores
        self._server = server
        self._period = period
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Begin."""
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
            for chore in self._chores:
                try:
                    chore()
                except Exception:  # one chore's trouble must not end the others
                    logger.exception("a chore of the model failed")
