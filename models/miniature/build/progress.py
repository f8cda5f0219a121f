"""The progress of a build: a bar on a terminal, plain lines otherwise."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tqdm import tqdm

_LINE_EVERY: Final[float] = 20.0  # seconds between lines if there is no terminal


class BuildBar:
    """Shows the steps of one task, and a moving average of the loss."""

    def __init__(self, name: str, total: int, done: int, quiet: bool = False):
        self.name, self.total, self.done = name, total, done
        self._start, self._first, self._printed_at = time.monotonic(), done, 0.0
        self._loss: float | None = None
        self._tqdm = (
            tqdm(total=total, initial=done, desc=name)
            if sys.stderr.isatty() and not quiet
            else None
        )
        self._quiet = quiet

    def advance(self, loss: float | None = None) -> None:
        """Count one step, and add its loss to the average."""
        self.done += 1
        if loss is not None:
            self._loss = loss if self._loss is None else 0.98 * self._loss + 0.02 * loss
        note = "" if self._loss is None else f"loss {self._loss:.4f}"
        if self._tqdm is not None:
            self._tqdm.set_postfix_str(note, refresh=False)
            self._tqdm.update()
            return
        now = time.monotonic()
        if self._quiet:
            return
        if now - self._printed_at >= _LINE_EVERY or self.done == self.total:
            self._printed_at = now
            pace = (now - self._start) / max(1, self.done - self._first)
            left = pace * (self.total - self.done)
            line = f"{self.name}: {self.done}/{self.total} {pace:.3f} s each, {left:.0f} s left"
            print(f"{line} {note}".rstrip(), flush=True)

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._tqdm is not None:
            self._tqdm.close()


class BuildProgress:
    """Shows bars and messages. All workers but the first are quiet and show nothing."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet

    @contextmanager
    def bar(self, name: str, total: int, done: int = 0) -> Iterator[BuildBar]:
        """Yield a bar for a task of `total` steps, of which `done` are done."""
        bar = BuildBar(name, total, done, self.quiet)
        try:
            yield bar
        finally:
            bar.close()

    def say(self, text: str) -> None:
        """Print a message."""
        if not self.quiet:
            print(text, flush=True)
