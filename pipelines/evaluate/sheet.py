"""The contact sheet: what the numbers are about, on one page a person can look at.

Every prompt has a row of the base and a row of the adapter, seeds side by side from the same noise;
the training pictures close the page.
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
COLUMNS: Final = 8  # tiles beside each other at least
INK, GREY, PAPER = (25, 25, 30), (110, 110, 120), (255, 255, 255)
GOOD, BAD = (20, 120, 50), (175, 30, 30)


@dataclass(frozen=True)
class ContactRow:
    """A label and its tiles. `titles` stand above it, each at its column, and may fill the next."""

    label: str
    tiles: Sequence[Image.Image]
    titles: Sequence[tuple[int, str]] = ()


@dataclass
class ContactPage:
    """Draws downwards; `y` is where the next thing goes."""

    image: Image.Image
    y: int = GAP
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont = field(
        default_factory=lambda: ImageFont.load_default(size=13)
    )

    def write(self, text: str, colour: tuple[int, int, int] = INK) -> None:
        """One line of text."""
        self._text(GAP, text, self.image.width - GAP, colour)
        self.y += LINE

    def show(self, row: ContactRow) -> None:
        """A row of tiles, with its titles above and its label at its left."""
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
        """Cut where the room ends."""
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
    """The page. Pictures of any size become tiles of 128 pixels."""
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
    said = "accepted" if evaluation.accepted else "refused"
    lines = [(f"{evaluation.adapter} {evaluation.digest[:19]}: {said}", INK)]
    for gate in evaluation.gates:
        value = "not measured" if gate.value is None else f"{gate.value:.3f}"
        interval = f" ({gate.ci[0]:.3f} to {gate.ci[1]:.3f})" if gate.ci else ""
        mark = "passed" if gate.passed else "FAILED"
        limit = f"{gate.kind.replace('_', ' ')} {gate.threshold:g}"
        text = f"{gate.name} {limit}: {value}{interval} {mark}"
        lines.append((text, GOOD if gate.passed else BAD))
    return lines


def _seeds(pairs: Sequence[Pair]) -> list[int]:
    """How many pictures each prompt has."""
    return [len(list(group)) for _, group in groupby(pairs, key=_prompt)]


def _prompt(pair: Pair) -> tuple[str, int]:
    return pair.shot.role, pair.shot.number


def _rows(pairs: Sequence[Pair], training: Sequence[Image.Image], columns: int) -> list[ContactRow]:
    """Prompts side by side as long as they fit, so few seeds do not make a ribbon of a page."""
    rows: list[ContactRow] = []
    line: list[Pair] = []
    titles: list[tuple[int, str]] = []
    for (role, _), group in groupby(pairs, key=_prompt):
        found = list(group)
        if line and (line[0].shot.role != role or len(line) + len(found) > columns):
            rows += _two(line, titles)
            line, titles = [], []
        titles = [*titles, (len(line), found[0].shot.prompt)]
        line = [*line, *found]
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
