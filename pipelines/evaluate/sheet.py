"""Draws the contact sheet of an evaluation: all its pictures on one page.

Each prompt has a row of the base and a row of the adapter, with the seeds side by side. The
training pictures follow at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from PIL import Image, ImageDraw, ImageFont, ImageOps

from .evaluation import Evaluation
from .measures import Pair

TILE: Final = 128
GAP: Final = 4
LABEL: Final = 76  # left of each row
LINE: Final = 18
COLUMNS: Final = 8  # minimum number of tiles in a row
INK, GREY, PAPER = (25, 25, 30), (110, 110, 120), (255, 255, 255)
GOOD, BAD = (20, 120, 50), (175, 30, 30)


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
    rows = _rows(pairs, training, columns := max(COLUMNS, *_seeds(pairs)))
    lines = _lines(evaluation)
    titles = sum(bool(row.titles) for row in rows)
    height = 2 * GAP + len(lines) * LINE + titles * (LINE + GAP) + len(rows) * (TILE + GAP)
    size = (LABEL + columns * (TILE + GAP) + GAP, height)
    page = ContactPage(Image.new("RGB", size, PAPER))
    for text, colour in lines:
        page.write(text, colour)
    for row in rows:
        page.show(row)
    return page.image


def _lines(evaluation: Evaluation) -> list[tuple[str, tuple[int, int, int]]]:
    lines = [(f"{evaluation.adapter} {evaluation.digest[:19]}: {evaluation.decision}", INK)]
    for gate in evaluation.gates:
        interval = f" ({gate.interval})" if gate.ci else ""
        text = f"{gate.name} {gate.limit}: {gate.measured}{interval} {gate.mark}"
        lines.append((text, GOOD if gate.passed else BAD))
    return lines


def _seeds(pairs: Sequence[Pair]) -> list[int]:
    """Return the number of pictures of each prompt."""
    return [len(list(group)) for _, group in groupby(pairs, key=_prompt)]


def _prompt(pair: Pair) -> tuple[str, int]:
    return pair.case.role, pair.case.number


def _rows(pairs: Sequence[Pair], training: Sequence[Image.Image], columns: int) -> list[ContactRow]:
    """Put as many prompts side by side as fit, so that the page is not long and narrow."""
    rows: list[ContactRow] = []
    line: list[Pair] = []
    titles: list[tuple[int, str]] = []
    for (role, _), group in groupby(pairs, key=_prompt):
        pictures = list(group)
        if line and (line[0].case.role != role or len(line) + len(pictures) > columns):
            rows += _two(line, titles)
            line, titles = [], []
        titles = [*titles, (len(line), pictures[0].case.prompt)]
        line = [*line, *pictures]
    rows += _two(line, titles)
    for start in range(0, len(training), columns):
        title = () if start else ((0, "training pictures"),)
        rows.append(ContactRow("training", training[start : start + columns], title))
    return rows


def _two(line: Sequence[Pair], titles: Sequence[tuple[int, str]]) -> list[ContactRow]:
    return [
        ContactRow("base", [pair.base for pair in line], titles),
        ContactRow("adapter", [pair.adapter for pair in line]),
    ]


def _small(image: Image.Image) -> Image.Image:
    return ImageOps.fit(image.convert("RGB"), (TILE, TILE), Image.Resampling.LANCZOS)
