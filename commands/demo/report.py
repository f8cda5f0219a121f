"""The demo's report: one self-contained HTML page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from commands.demo.clock import TimedStep, duration
from commands.demo.swap import Swap


@dataclass(frozen=True)
class SheetRow:
    """One prompt and seed, with a picture for each column."""

    prompt: str
    seed: int
    pictures: tuple[bytes, ...]  # PNG


@dataclass(frozen=True)
class JudgedRow:
    """A version and its verdict."""

    version: int
    digest: str
    training: str  # how it was trained, in a few words
    gates: Sequence[Any]  # GateResult
    accepted: bool


@dataclass(frozen=True)
class DemoReport:
    """The content of the page."""

    adapter: str
    trigger: str
    columns: Sequence[str]
    rows: Sequence[SheetRow]
    training_pictures: Sequence[Path]
    fresh: Sequence[SheetRow]  # version 1, version 2, after rollback, on prompts not used before
    judged: Sequence[JudgedRow]
    swap: Swap
    rollback_seconds: float
    steps: Sequence[TimedStep]
    seconds: float
    loss_plot: Path
    facts: Sequence[tuple[str, str]]

    def write(self, file: Path) -> None:
        """Write the page."""
        from jinja2 import Environment, StrictUndefined

        source = files("commands.demo").joinpath("report.html.j2").read_text("utf-8")
        environment = Environment(
            autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters |= {"png": data_uri, "duration": _unbroken}
        page = environment.from_string(source).render(
            report=self,
            hero=[row.pictures[self._hero] for row in self.rows[:3]],
            dots=_dots(self.swap),
            longest=max(step.seconds for step in self.steps),
            ready=all(row.accepted for row in self.judged),
        )
        file.write_text(page, "utf-8")

    @property
    def _hero(self) -> int:
        """The column of the pictures at the top of the page: the first version."""
        return 1


def _unbroken(seconds: float) -> str:
    """A duration without line breaks."""
    return duration(seconds).replace(" ", "\N{NO-BREAK SPACE}")


def data_uri(picture: bytes | Path) -> str:
    """A picture as a data URI."""
    data = picture if isinstance(picture, bytes) else picture.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        kind = (image.format or "PNG").lower()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@dataclass(frozen=True)
class Dot:
    """One answer on the time line of the page, in percent of its width."""

    left: float
    width: float
    lane: int
    version: int


LANES = 6


def _dots(swap: Swap) -> dict[str, Any]:
    """The traffic as bars from request to answer, and where the swap began and ended."""
    answers = sorted(swap.seen, key=lambda answer: answer.asked)
    end = max((answer.came for answer in answers), default=1.0)
    bars = [
        Dot(
            left=100 * answer.asked / end,
            width=100 * (answer.came - answer.asked) / end,
            lane=index % LANES,
            version=answer.version,
        )
        for index, answer in enumerate(answers)
    ]
    return {
        "bars": bars,
        "began": 100 * swap.began / end,
        "width": max(0.4, 100 * swap.seconds / end),
        "seconds": end,
    }
