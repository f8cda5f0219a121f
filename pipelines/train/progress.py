"""How a training looks to whoever waits: a live bar, or plain lines where there is no terminal."""

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
    """Whoever is shown a training."""

    def note(self, text: str) -> None:
        """Something that happened once."""
        ...

    def begin(self, done: int, steps: int) -> None:
        """The updates begin."""
        ...

    def update(self, report: StepReport) -> None:
        """One update is done."""
        ...

    def end(self) -> None:
        """Nothing more comes."""
        ...


class Smooth:
    """Loss and seconds a step, averaged over about the last twenty updates."""

    def __init__(self) -> None:
        self.loss: float | None = None
        self.seconds: float | None = None

    def add(self, report: StepReport) -> None:
        """Takes one update in."""
        self.loss = _towards(self.loss, report.loss)
        self.seconds = _towards(self.seconds, report.seconds)


class Lines:
    """Plain lines, for logs."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, soft_wrap=True)
        self._smooth, self._steps, self._told = Smooth(), 0, 0.0

    def note(self, text: str) -> None:
        """A line of its own."""
        self._print(text)

    def begin(self, done: int, steps: int) -> None:
        """Where it starts from."""
        self._steps, self._told = steps, time.monotonic()
        self._print(f"training: {steps} steps" + (f", going on after {done}" if done else ""))

    def update(self, report: StepReport) -> None:
        """A line every ten seconds, and for the last step."""
        self._smooth.add(report)
        now = time.monotonic()
        if now - self._told < EVERY and report.step < self._steps:
            return
        self._told = now
        self._print(
            f"step {report.step}/{self._steps}  {describe(self._smooth)}  {self._left(report)}"
        )

    def end(self) -> None:
        """Nothing to close."""

    def _left(self, report: StepReport) -> str:
        seconds = (self._steps - report.step) * (self._smooth.seconds or 0.0)
        return f"{_duration(seconds)} left"

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)


class Bar:
    """A live bar with loss, speed and time left."""

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
        """A line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)

    def begin(self, done: int, steps: int) -> None:
        """The bar appears."""
        self._progress.reset(self._task, total=steps, completed=done)
        self._progress.start()

    def update(self, report: StepReport) -> None:
        """The bar moves."""
        self._smooth.add(report)
        self._progress.update(self._task, completed=report.step, numbers=describe(self._smooth))

    def end(self) -> None:
        """The terminal is given back."""
        self._progress.stop()


class Silence:
    """Nobody watches."""

    def note(self, text: str) -> None:
        """Nothing."""

    def begin(self, done: int, steps: int) -> None:
        """Nothing."""

    def update(self, report: StepReport) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


def watcher() -> Watcher:
    """The bar on a terminal, else lines."""
    console = Console(stderr=True)
    return Bar(console) if console.is_terminal and sys.stderr.isatty() else Lines()


def describe(smooth: Smooth) -> str:
    """`loss 0.1234  5.20 it/s`, or seconds a step where that reads better."""
    loss, seconds = smooth.loss or 0.0, smooth.seconds or 0.0
    speed = f"{seconds:.2f} s/it" if seconds > 1 else f"{1 / seconds if seconds else 0:.2f} it/s"
    return f"loss {loss:.4f}  {speed}"


def _towards(old: float | None, new: float) -> float:
    return new if old is None else 0.95 * old + 0.05 * new


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
