"""Draws a grid of pictures, with column names and a prompt for each row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw, ImageFont, ImageOps

GAP: Final = 10
MARGIN: Final = 24
HEAD: Final = 34
WORDS: Final = 190  # width of the column with the prompts
LINE: Final = 21
INK, GREY, PAPER = (28, 27, 32), (116, 113, 124), (252, 251, 248)


@dataclass(frozen=True)
class GridRow:
    """One row of the grid: its prompt, a note, and a picture for each column."""

    prompt: str
    note: str
    pictures: Sequence[Image.Image]


def grid(columns: Sequence[str], rows: Sequence[GridRow], *, tile: int = 192) -> Image.Image:
    """Draw the grid. Pictures of any size become square tiles of `tile` pixels."""
    width = 2 * MARGIN + WORDS + len(columns) * (tile + GAP)
    height = 2 * MARGIN + HEAD + len(rows) * (tile + GAP)
    page = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(page)
    bold = ImageFont.load_default(size=17)
    for place, name in enumerate(columns):
        x = MARGIN + WORDS + place * (tile + GAP)
        pen.text((x, MARGIN), name, fill=INK, font=bold)
    for number, row in enumerate(rows):
        y = MARGIN + HEAD + number * (tile + GAP)
        _words(pen, row, y)
        for place, picture in enumerate(row.pictures):
            x = MARGIN + WORDS + place * (tile + GAP)
            page.paste(_tile(picture, tile), (x, y))
    return page


def _words(pen: ImageDraw.ImageDraw, row: GridRow, y: int) -> None:
    """Draw the prompt, wrapped to its column, and the note in grey below it."""
    font, small = ImageFont.load_default(size=16), ImageFont.load_default(size=13)
    for line in _wrapped(row.prompt, pen, font):
        pen.text((MARGIN, y), line, fill=INK, font=font)
        y += LINE
    pen.text((MARGIN, y + 2), row.note, fill=GREY, font=small)


def _wrapped(
    text: str, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font=font) > WORDS - GAP and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _tile(picture: Image.Image, size: int) -> Image.Image:
    return ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
