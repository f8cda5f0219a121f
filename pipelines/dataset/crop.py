"""From a picture of any shape to the pixels that training sees, and what SDXL is told about it."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

GRID = 32  # pixels; both sides of an uncropped picture are multiples: the VAE's 8, the UNet's 4
MIDDLE = (0.5, 0.5)


@dataclass(frozen=True)
class Fitted:
    """Pixels ready for the VAE and SDXL's size conditioning, in (height, width) order."""

    pixels: npt.NDArray[np.uint8]  # [height, width, 3]
    original_size: tuple[int, int]
    crop_top_left: tuple[int, int]

    @property
    def time_ids(self) -> tuple[int, ...]:
        """Original size, crop offset and target size, as `UNet2DConditionModel` takes them."""
        height, width, _ = self.pixels.shape
        return (*self.original_size, *self.crop_top_left, height, width)


def square(image: Image.Image, resolution: int, at: tuple[float, float] = MIDDLE) -> Fitted:
    """The largest square of `image`, scaled to `resolution` pixels.

    `at` says where it lies, from (0, 0), top left, to (1, 1), bottom right.
    """
    return _cover(image, (resolution, resolution), at)


def whole(image: Image.Image, resolution: int) -> Fitted:
    """`image` at its own proportions, with about the area of a square of `resolution` pixels.

    Both sides are rounded to the grid, so a narrow rim may be cut.
    """
    stretch = math.sqrt(image.width / image.height)
    width = max(GRID, round(resolution * stretch / GRID) * GRID)
    height = max(GRID, round(resolution / stretch / GRID) * GRID)
    return _cover(image, (width, height), MIDDLE)


def _cover(image: Image.Image, size: tuple[int, int], at: tuple[float, float]) -> Fitted:
    """Scaled until it covers `size` (width, height), then cut; offsets are in scaled pixels."""
    width, height = size
    scale = max(width / image.width, height / image.height)
    scaled = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    cover = image.resize(scaled, Image.Resampling.LANCZOS)
    top = round((cover.height - height) * at[0])
    left = round((cover.width - width) * at[1])
    pixels = np.asarray(cover.crop((left, top, left + width, top + height)), dtype=np.uint8)
    return Fitted(pixels, (image.height, image.width), (top, left))
