"""Progress of a long verb: a live bar on a terminal, otherwise a line every few seconds."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

SECONDS_BETWEEN_LINES: Final = 5.0


class Progress(Protocol):
    """Receives the current task, the steps done and their total."""

    def __call__(self, doing: str, done: int, total: int) -> None: ...


@contextmanager
def progress() -> Iterator[Progress]:
    """Show progress on stderr while the work runs. stdout is reserved for the answer."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {}

        def show(doing: str, done: int, total: int) -> None:
            if doing not in tasks:
                tasks[doing] = bars.add_task(doing, total=total)
            bars.update(tasks[doing], completed=done, total=total)

        yield show


class _Lines:
    """One line at the start and end of each task, and every few seconds in between."""

    def __init__(self) -> None:
        self._doing = ""
        self._told = 0.0

    def __call__(self, doing: str, done: int, total: int) -> None:
        now = time.monotonic()
        begins, ends = doing != self._doing, done >= total
        if begins or ends or now - self._told > SECONDS_BETWEEN_LINES:
            print(f"{doing}: {done}/{total}", file=sys.stderr, flush=True)
            self._told = now
        self._doing = doing
