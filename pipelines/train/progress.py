"""The progress of a training: a live bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from pipelines.train.loop import StepReport

EVERY = 10.0  # seconds between plain lines


class Watcher(Protocol):
    """Receives the progress of a training."""

    def note(self, text: str) -> None:
        """Show a message."""
        ...

    def begin(self, done: int, steps: int) -> None:
        """Start showing a training of `steps` updates, of which `done` are done."""
        ...

    def update(self, report: StepReport) -> None:
        """Show one update."""
        ...

    def end(self) -> None:
        """Stop showing progress."""
        ...


class Smooth:
    """Exponential averages of loss and seconds per step, over about the last twenty updates.

    Both are None before the first update.
    """

    def __init__(self) -> None:
        self.loss: float | None = None
        self.seconds: float | None = None

    def add(self, report: StepReport) -> None:
        """Add one update to the averages."""
        self.loss = _towards(self.loss, report.loss)
        self.seconds = _towards(self.seconds, report.seconds)


class Lines:
    """Prints plain lines, for logs."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, soft_wrap=True)
        self._smooth, self._steps, self._printed_at = Smooth(), 0, 0.0

    def note(self, text: str) -> None:
        """Print a line."""
        self._print(text)

    def begin(self, done: int, steps: int) -> None:
        """Print the number of steps, and of those done before a resume."""
        self._steps, self._printed_at = steps, time.monotonic()
        self._print(f"training: {steps} steps" + (f", resumed after step {done}" if done else ""))

    def update(self, report: StepReport) -> None:
        """Print a line every ten seconds, and for the last step."""
        self._smooth.add(report)
        now = time.monotonic()
        if now - self._printed_at < EVERY and report.step < self._steps:
            return
        self._printed_at = now
        self._print(
            f"step {report.step}/{self._steps}  {describe(self._smooth)}  {self._left(report)}"
        )

    def end(self) -> None:
        """Do nothing: there is nothing to close."""

    def _left(self, report: StepReport) -> str:
        seconds = (self._steps - report.step) * (self._smooth.seconds or 0.0)
        return f"{_duration(seconds)} left"

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)


class Bar:
    """Shows a live bar with loss, speed and time left."""

    def __init__(self, console: Console) -> None:
        self._smooth = Smooth()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("training", total=None, numbers="", start=False)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)

    def begin(self, done: int, steps: int) -> None:
        """Show the bar."""
        self._progress.reset(self._task, total=steps, completed=done)
        self._progress.start()

    def update(self, report: StepReport) -> None:
        """Advance the bar."""
        self._smooth.add(report)
        self._progress.update(self._task, completed=report.step, numbers=describe(self._smooth))

    def end(self) -> None:
        """Stop the bar and restore the terminal."""
        self._progress.stop()


class Silence:
    """Shows nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def begin(self, done: int, steps: int) -> None:
        """Do nothing."""

    def update(self, report: StepReport) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


def watcher() -> Watcher:
    """Return a `Bar` if stderr is a terminal, else `Lines`."""
    console = Console(stderr=True)
    return Bar(console) if console.is_terminal and sys.stderr.isatty() else Lines()


def describe(smooth: Smooth) -> str:
    """Format the averages: `loss 0.1234  5.20 it/s`, or `s/it` if a step takes over a second."""
    loss, seconds = smooth.loss or 0.0, smooth.seconds or 0.0
    speed = f"{seconds:.2f} s/it" if seconds > 1 else f"{1 / seconds if seconds else 0:.2f} it/s"
    return f"loss {loss:.4f}  {speed}"


def _towards(old: float | None, new: float) -> float:
    return new if old is None else 0.95 * old + 0.05 * new


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
