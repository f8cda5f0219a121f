"""The grid of pictures: everything is on the page, nothing overlaps."""

import numpy as np
from PIL import Image

from pipelines.evaluate.grid import GAP, HEAD, MARGIN, WORDS, GridRow, grid

RED, BLUE = (200, 0, 0), (0, 0, 200)


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (32, 32)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_pictures_stand_below_their_column_and_beside_their_words() -> None:
    rows = [GridRow("a cat", "seed 0", [plain(RED), plain(BLUE)]) for _ in range(2)]
    page = grid(["base", "version 1"], rows, tile=64)
    assert page.size == (2 * MARGIN + WORDS + 2 * (64 + GAP), 2 * MARGIN + HEAD + 2 * (64 + GAP))
    for row in range(2):
        middle = MARGIN + HEAD + row * (64 + GAP) + 32
        assert page.getpixel((MARGIN + WORDS + 32, middle)) == RED
        assert page.getpixel((MARGIN + WORDS + 64 + GAP + 32, middle)) == BLUE


def test_long_words_break_before_the_pictures() -> None:
    words = "a photo of a very particular cat with a helmet and wings in the deep dark forest"
    page = np.asarray(grid(["base"], [GridRow(words, "seed 1", [plain(RED)])], tile=128))
    gutter = page[MARGIN + HEAD :, MARGIN + WORDS - GAP // 2 : MARGIN + WORDS]
    assert (gutter == gutter[-1, -1]).all(), "no letter reaches into the gutter"


def test_pictures_of_any_shape_become_tiles() -> None:
    page = grid(["base"], [GridRow("x", "", [plain(BLUE, (300, 40))])], tile=64)
    assert page.getpixel((MARGIN + WORDS + 1, MARGIN + HEAD + 1)) == BLUE
