"""Print each step and its duration, and record them for the report."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO


@dataclass
class TimedStep:
    """A step of the demo. `seconds` is set when it ends."""

    name: str
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


class Clock:
    """Print the steps of the demo as they run, and record them."""

    def __init__(self, steps: int, out: TextIO | None = None) -> None:
        self.steps: list[TimedStep] = []
        self._total = steps
        self._out = out or sys.stdout
        self._began = time.monotonic()

    @contextmanager
    def step(self, name: str) -> Iterator[TimedStep]:
        """Time one step. Its notes are printed when it ends."""
        step = TimedStep(name)
        self.steps.append(step)
        self._print(f"[{len(self.steps):2}/{self._total}] {name}")
        began = time.monotonic()
        yield step
        step.seconds = time.monotonic() - began
        for note in step.notes:
            self._print(f"        {note}")
        self._print(f"        {duration(step.seconds)}")

    @property
    def seconds(self) -> float:
        """Seconds since the clock was created."""
        return time.monotonic() - self._began

    def _print(self, text: str) -> None:
        print(text, file=self._out, flush=True)


def duration(seconds: float) -> str:
    """Format a duration with three significant digits or in minutes: `12.3 s`, `2 min 05 s`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
