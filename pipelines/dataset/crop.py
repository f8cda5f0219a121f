"""Resize and crop pictures for training, with SDXL's size conditioning."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

GRID = 32  # pixels; the sides of `whole` pictures are multiples: VAE factor 8, UNet factor 4
MIDDLE = (0.5, 0.5)


@dataclass(frozen=True)
class Fitted:
    """A fitted picture and its size conditioning; sizes and offsets are (height, width) in pixels.

    `crop_top_left` is in pixels of the scaled picture, `original_size` in pixels of the original
    picture.
    """

    pixels: npt.NDArray[np.uint8]  # [height, width, 3]
    original_size: tuple[int, int]
    crop_top_left: tuple[int, int]

    @property
    def time_ids(self) -> tuple[int, ...]:
        """Original size, crop offset and target size: six integers, as SDXL's UNet expects them."""
        height, width, _ = self.pixels.shape
        return (*self.original_size, *self.crop_top_left, height, width)


def square(image: Image.Image, resolution: int, at: tuple[float, float] = MIDDLE) -> Fitted:
    """Crop the largest square of `image` and scale it to `resolution` pixels per side.

    `at` is the position of the square (down, right), from (0, 0), top left, to (1, 1), bottom
    right.
    """
    return _cover(image, (resolution, resolution), at)


def whole(image: Image.Image, resolution: int) -> Fitted:
    """Scale `image` to about the area of a square of `resolution` pixels, without cropping.

    Both sides are rounded to multiples of GRID, so a narrow border may be cut.
    """
    stretch = math.sqrt(image.width / image.height)
    width = max(GRID, round(resolution * stretch / GRID) * GRID)
    height = max(GRID, round(resolution / stretch / GRID) * GRID)
    return _cover(image, (width, height), MIDDLE)


def _cover(image: Image.Image, size: tuple[int, int], at: tuple[float, float]) -> Fitted:
    """Scale `image` to cover `size` (width, height), then crop it."""
    width, height = size
    scale = max(width / image.width, height / image.height)
    scaled = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    cover = image.resize(scaled, Image.Resampling.LANCZOS)
    top = round((cover.height - height) * at[0])
    left = round((cover.width - width) * at[1])
    pixels = np.asarray(cover.crop((left, top, left + width, top + height)), dtype=np.uint8)
    return Fitted(pixels, (image.height, image.width), (top, left))
