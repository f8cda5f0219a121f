"""SIGTERM means: write a checkpoint and go, within the grace period."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from atelier.errors import Interrupted


class Stopping:
    """While it is entered, SIGTERM sets `asked` instead of ending the process.

    Outside the main thread, where Python takes no signals, `ask` does the same.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def ask(self) -> None:
        """Stop at the next safe place."""
        self.asked = True

    def check(self, what: str) -> None:
        """Interrupted where somebody asked to stop; `what` is said to be unfinished."""
        if self.asked:
            raise Interrupted(f"stopped while {what}; --resume goes on")

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.ask()
