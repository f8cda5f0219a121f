"""Draws the contact sheet of an evaluation: its gates and pictures on one page.

The worst picture of each gate comes first. Then each prompt has a row of the base and a row of the
adapter, its worst seeds first, with a prompt of the class beside a prompt of the subject. The
training pictures follow at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final

from PIL import Image, ImageDraw, ImageFont, ImageOps

from atelier.data.policy import Measure

from .evaluation import Evaluation, GateResult
from .measures import Pair
from .worst import by_severity, prompts

TILE: Final = 128
GAP: Final = 4
LABEL: Final = 76  # left of each row
LINE: Final = 18
COLUMNS: Final = 8  # tiles in a row
SHOWN: Final = COLUMNS // 2  # seeds of a prompt, so that a prompt of the class fits beside it
INK, GREY, PAPER = (25, 25, 30), (110, 110, 120), (255, 255, 255)
GOOD, CLOSE, BAD = (20, 120, 50), (160, 100, 0), (175, 30, 30)


@dataclass(frozen=True)
class ContactRow:
    """A labelled row of tiles. `titles` are (column, text); a title may span several columns."""

    label: str
    tiles: Sequence[Image.Image]
    titles: Sequence[tuple[int, str]] = ()


@dataclass
class ContactPage:
    """A page that is filled from top to bottom; `y` is the next free position in pixels."""

    image: Image.Image
    y: int = GAP
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont = field(
        default_factory=lambda: ImageFont.load_default(size=13)
    )

    def write(self, text: str, colour: tuple[int, int, int] = INK) -> None:
        """Draw one line of text."""
        self._text(GAP, text, self.image.width - GAP, colour)
        self.y += LINE

    def show(self, row: ContactRow) -> None:
        """Draw a row of tiles, with its titles above and its label on the left."""
        if row.titles:
            self.y += GAP
            ends = [_left(column) - GAP for column, _ in row.titles[1:]] + [self.image.width - GAP]
            for (column, text), end in zip(row.titles, ends, strict=True):
                self._text(_left(column), text, end, INK)
            self.y += LINE
        pen = ImageDraw.Draw(self.image)
        pen.text((GAP, self.y + TILE // 2 - 8), row.label, fill=GREY, font=self.font)
        for column, tile in enumerate(row.tiles):
            self.image.paste(_small(tile), (_left(column), self.y))
        self.y += TILE + GAP

    def _text(self, x: int, text: str, end: int, colour: tuple[int, int, int]) -> None:
        """Draw text, shortened with an ellipsis if it extends beyond `end`."""
        pen, whole = ImageDraw.Draw(self.image), text
        while text and x + pen.textlength(text, font=self.font) > end:
            whole = whole[:-1]
            text = f"{whole.rstrip()}…" if whole else ""
        pen.text((x, self.y), text, fill=colour, font=self.font)


def _left(column: int) -> int:
    return LABEL + column * (TILE + GAP)


def contact_sheet(
    evaluation: Evaluation, pairs: Sequence[Pair], training: Sequence[Image.Image]
) -> Image.Image:
    """Draw the contact sheet. Pictures of any size become square tiles of 128 pixels."""
    rows = [*_worst(evaluation, pairs), *_prompts(evaluation, pairs), *_training(training)]
    lines = _lines(evaluation)
    titles = sum(bool(row.titles) for row in rows)
    height = 2 * GAP + len(lines) * LINE + titles * (LINE + GAP) + len(rows) * (TILE + GAP)
    size = (LABEL + COLUMNS * (TILE + GAP) + GAP, height)
    page = ContactPage(Image.new("RGB", size, PAPER))
    for text, colour in lines:
        page.write(text, colour)
    for row in rows:
        page.show(row)
    return page.image


def _lines(evaluation: Evaluation) -> list[tuple[str, tuple[int, int, int]]]:
    heading = f"{evaluation.adapter} {evaluation.digest[:19]}: {evaluation.decision}"
    lines = [(heading, INK), *((reason, INK) for reason in evaluation.reasons[:1])]
    for gate in evaluation.gates:
        interval = f" ({gate.interval})" if gate.ci else ""
        text = f"{gate.name} {gate.limit}: {gate.measured}{interval} {gate.mark}"
        lines.append((text, _colour(gate)))
    judged = {gate.name for gate in evaluation.gates}
    ceilings = evaluation.measures.references.likeness.items()
    if shown := [f"{name} {value:.3f}" for name, value in ceilings if name in judged]:
        lines.append((f"ceiling (likeness of the references): {', '.join(shown)}", GREY))
    return lines


def _colour(gate: GateResult) -> tuple[int, int, int]:
    if gate.state == "failed":
        return BAD
    return CLOSE if gate.notable else GOOD


def _worst(evaluation: Evaluation, pairs: Sequence[Pair]) -> list[ContactRow]:
    """Return the rows with the worst picture of each measure; no picture appears twice."""
    by_file = {pair.case.file: pair for pair in pairs}
    worst: dict[Measure, str] = {}
    for gate in by_severity(evaluation.gates):
        worst.setdefault(gate.name, next(iter(gate.pictures), ""))
    titles: dict[str, str] = {}
    for name, file in worst.items():
        if file in by_file:
            titles.setdefault(file, f"worst {name}")
    shown = list(titles.items())[:COLUMNS]
    if not shown:
        return []
    line = [by_file[file] for file, _ in shown]
    return _two(line, [(column, title) for column, (_, title) in enumerate(shown)])


def _prompts(evaluation: Evaluation, pairs: Sequence[Pair]) -> list[ContactRow]:
    """Return two rows for each line of prompts. A line has as many prompts as fit."""
    subject, plain, unrelated = (
        prompts(pairs, evaluation, role) for role in ("subject", "class", "unrelated")
    )
    beside = [group for both in zip_longest(subject, plain) for group in both if group]
    rows: list[ContactRow] = []
    for groups in (beside, unrelated):
        for line in _packed(groups):
            titles: list[tuple[int, str]] = []
            tiles: list[Pair] = []
            for group in line:
                titles.append((len(tiles), _title(group)))
                tiles += group[:SHOWN]
            rows += _two(tiles, titles)
    return rows


def _packed(groups: Sequence[list[Pair]]) -> list[list[list[Pair]]]:
    """Distribute prompts over lines of at most COLUMNS tiles."""
    lines: list[list[list[Pair]]] = []
    free = 0
    for group in groups:
        width = min(SHOWN, len(group))
        if width > free:
            lines.append([])
            free = COLUMNS
        lines[-1].append(group)
        free -= width
    return lines


def _title(group: Sequence[Pair]) -> str:
    hidden = len(group) > SHOWN
    return group[0].case.prompt + (f" (worst {SHOWN} of {len(group)})" if hidden else "")


def _two(line: Sequence[Pair], titles: Sequence[tuple[int, str]]) -> list[ContactRow]:
    return [
        ContactRow("base", [pair.base for pair in line], titles),
        ContactRow("adapter", [pair.adapter for pair in line]),
    ]


def _training(pictures: Sequence[Image.Image]) -> list[ContactRow]:
    return [
        ContactRow(
            "training",
            pictures[start : start + COLUMNS],
            () if start else ((0, "training pictures"),),
        )
        for start in range(0, len(pictures), COLUMNS)
    ]


def _small(image: Image.Image) -> Image.Image:
    return ImageOps.fit(image.convert("RGB"), (TILE, TILE), Image.Resampling.LANCZOS)
