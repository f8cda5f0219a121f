"""Stops a training on SIGTERM: requests a checkpoint and the end within the grace period."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from atelier.errors import Interrupted


class Stopping:
    """Within the block, SIGTERM sets `requested` instead of ending the process.

    Outside the main thread, where Python cannot handle signals, call `request` instead.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def request(self) -> None:
        """Request a stop at the next safe point."""
        self.requested = True

    def check(self, activity: str) -> None:
        """Raise Interrupted if a stop was requested; `activity` is the unfinished work."""
        if self.requested:
            raise Interrupted(f"stopped while {activity}; continue with --resume")

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
        self.request()
