"""Terminal output: tables, short digests and progress.

A command prints its result on stdout and its progress on stderr.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

SECONDS_BETWEEN_LINES: Final = 5.0


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table of left-aligned columns, two spaces apart, as plain text for pipes and grep.

    None is printed as a dash. A table without rows contains only the heads.
    """
    lines = [list(heads), *([("-" if cell is None else str(cell)) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def short(digest: str | None) -> str:
    """Return the first twelve hexadecimal digits of a digest, or a dash for None."""
    return (digest or "-").removeprefix("sha256:")[:12]


def count(number: int, noun: str) -> str:
    """Return the number with its noun: `1 error`, `2 errors`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def print_progress(text: str) -> None:
    """Print a line on stderr."""
    print(text, file=sys.stderr, flush=True)


class Progress(Protocol):
    """A callback that reports that `done` of `total` units of the activity `doing` are complete."""

    def __call__(self, doing: str, done: int, total: int) -> None: ...


@contextmanager
def progress() -> Iterator[Progress]:
    """Show progress on stderr: a live bar on a terminal, otherwise single lines (`_Lines`)."""
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
    """Print a line at the start and end of each activity, and every SECONDS_BETWEEN_LINES."""

    def __init__(self) -> None:
        self._doing = ""
        self._printed_at = 0.0

    def __call__(self, doing: str, done: int, total: int) -> None:
        now = time.monotonic()
        begins, ends = doing != self._doing, done >= total
        if begins or ends or now - self._printed_at > SECONDS_BETWEEN_LINES:
            print_progress(f"{doing}: {done}/{total}")
            self._printed_at = now
        self._doing = doing


def hide_library_bars() -> None:
    """Disable the progress bars that transformers shows for each file of a model."""
    from transformers.utils import logging

    logging.disable_progress_bar()
