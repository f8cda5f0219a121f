"""The report of the demo: one self-contained HTML page."""

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
    """A prompt and a seed, with an image for each column."""

    prompt: str
    seed: int
    images: tuple[bytes, ...]  # PNG


@dataclass(frozen=True)
class VersionRow:
    """A version and its evaluation."""

    version: int
    digest: str
    training: str  # summary of the training settings
    gates: Sequence[Any]  # GateResult
    accepted: bool


@dataclass(frozen=True)
class DemoReport:
    """The contents of the page."""

    adapter: str
    trigger: str
    columns: Sequence[str]
    rows: Sequence[SheetRow]
    training_pictures: Sequence[Path]
    fresh: Sequence[
        SheetRow
    ]  # for version 1, version 2 and the rollback, with prompts that the sheet does not use
    versions: Sequence[VersionRow]
    swap: Swap
    rollback_seconds: float
    steps: Sequence[TimedStep]
    seconds: float
    loss_plot: Path
    facts: Sequence[tuple[str, str]]

    def write(self, file: Path) -> None:
        """Render the page to `file`."""
        from jinja2 import Environment, StrictUndefined

        source = files("commands.demo").joinpath("report.html.j2").read_text("utf-8")
        environment = Environment(
            autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters |= {"png": data_uri, "duration": _unbroken}
        page = environment.from_string(source).render(
            report=self,
            hero=[row.images[self._hero] for row in self.rows[:3]],
            timeline=_timeline(self.swap),
            longest=max(step.seconds for step in self.steps),
            accepted=all(row.accepted for row in self.versions),
        )
        file.write_text(page, "utf-8")

    @property
    def _hero(self) -> int:
        """The index in `SheetRow.images` of the images at the top of the page."""
        return 1


def _unbroken(seconds: float) -> str:
    """Format a duration with a no-break space."""
    return duration(seconds).replace(" ", "\N{NO-BREAK SPACE}")


def data_uri(picture: bytes | Path) -> str:
    """Return an image as a data URI. `picture` is the content of a file or its path."""
    data = picture if isinstance(picture, bytes) else picture.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        kind = (image.format or "PNG").lower()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@dataclass(frozen=True)
class TrafficBar:
    """One request on the timeline of the page. `left` and `width` are in percent."""

    left: float
    width: float
    lane: int
    version: int


LANES = 6


def _timeline(swap: Swap) -> dict[str, Any]:
    """Return the bars of the requests, and the start and duration of the swap."""
    answers = sorted(swap.answers, key=lambda answer: answer.asked)
    end = max((answer.came for answer in answers), default=1.0)
    bars = [
        TrafficBar(
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
