"""Progress a person can follow: a bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tqdm import tqdm

_LINE_EVERY: Final[float] = 20.0  # seconds between lines where there is no terminal


class BuildBar:
    """Counts steps of one task; beside the count stands a running mean of the loss."""

    def __init__(self, name: str, total: int, done: int, quiet: bool = False):
        self.name, self.total, self.done = name, total, done
        self._start, self._first, self._said = time.monotonic(), done, 0.0
        self._loss: float | None = None
        self._tqdm = (
            tqdm(total=total, initial=done, desc=name)
            if sys.stderr.isatty() and not quiet
            else None
        )
        self._quiet = quiet

    def advance(self, loss: float | None = None) -> None:
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
        if now - self._said >= _LINE_EVERY or self.done == self.total:
            self._said = now
            pace = (now - self._start) / max(1, self.done - self._first)
            left = pace * (self.total - self.done)
            line = f"{self.name}: {self.done}/{self.total} {pace:.3f} s each, {left:.0f} s left"
            print(f"{line} {note}".rstrip(), flush=True)

    def close(self) -> None:
        if self._tqdm is not None:
            self._tqdm.close()


class BuildProgress:
    """Makes bars; a quiet one makes none, for all workers but the first."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet

    @contextmanager
    def bar(self, name: str, total: int, done: int = 0) -> Iterator[BuildBar]:
        bar = BuildBar(name, total, done, self.quiet)
        try:
            yield bar
        finally:
            bar.close()

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)
