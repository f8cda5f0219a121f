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
class Row:
    """A label and its tiles; rows of one prompt stand together below `title`."""

    label: str
    tiles: Sequence[Image.Image]
    title: str = ""


@dataclass
class Page:
    """Draws downwards; `y` is where the next thing goes."""

    image: Image.Image
    y: int = GAP
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont = field(
        default_factory=lambda: ImageFont.load_default(size=13)
    )

    def write(self, text: str, colour: tuple[int, int, int] = INK) -> None:
        """One line of text, cut where the page ends."""
        pen = ImageDraw.Draw(self.image)
        while text and pen.textlength(text, font=self.font) > self.image.width - 2 * GAP:
            text = text[:-2].rstrip("…") + "…" if len(text) > 2 else ""
        pen.text((GAP, self.y), text, fill=colour, font=self.font)
        self.y += LINE

    def show(self, row: Row) -> None:
        """A row of tiles, with its title above and its label at its left."""
        if row.title:
            self.y += GAP
            self.write(row.title)
        pen = ImageDraw.Draw(self.image)
        pen.text((GAP, self.y + TILE // 2 - 8), row.label, fill=GREY, font=self.font)
        for column, tile in enumerate(row.tiles):
            self.image.paste(_small(tile), (LABEL + column * (TILE + GAP), self.y))
        self.y += TILE + GAP


def contact_sheet(
    evaluation: Evaluation, pairs: Sequence[Pair], training: Sequence[Image.Image]
) -> Image.Image:
    """The page. Pictures of any size become tiles of 128 pixels."""
    rows = _rows(pairs, training, columns := max(COLUMNS, *_seeds(pairs)))
    lines = _lines(evaluation)
    titles = sum(bool(row.title) for row in rows)
    height = 2 * GAP + len(lines) * LINE + titles * (LINE + GAP) + len(rows) * (TILE + GAP)
    size = (LABEL + columns * (TILE + GAP) + GAP, height)
    page = Page(Image.new("RGB", size, PAPER))
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


def _rows(pairs: Sequence[Pair], training: Sequence[Image.Image], columns: int) -> list[Row]:
    """Prompts fill lines of `columns` tiles, so a page with few seeds does not become a ribbon."""
    prompts = [list(group) for _, group in groupby(pairs, key=_prompt)]
    rows: list[Row] = []
    while prompts:
        line = [prompts.pop(0)]
        role = line[0][0].shot.role
        while (
            prompts
            and prompts[0][0].shot.role == role
            and sum(map(len, line)) + len(prompts[0]) <= columns
        ):
            line.append(prompts.pop(0))
        flat = [pair for group in line for pair in group]
        title = f"{role}: " + "  |  ".join(group[0].shot.prompt for group in line)
        rows.append(Row("base", [pair.base for pair in flat], title))
        rows.append(Row("adapter", [pair.adapter for pair in flat]))
    for start in range(0, len(training), columns):
        shown = training[start : start + columns]
        rows.append(Row("training", shown, "" if start else "training pictures"))
    return rows


def _small(image: Image.Image) -> Image.Image:
    return ImageOps.fit(image.convert("RGB"), (TILE, TILE), Image.Resampling.LANCZOS)
