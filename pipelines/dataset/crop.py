"""From a picture of any shape to the square that training sees, and what SDXL is told about it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from atelier.errors import RecipeError


@dataclass(frozen=True)
class Fitted:
    """Pixels ready for the VAE and SDXL's size conditioning, in (height, width) order."""

    pixels: npt.NDArray[np.uint8]  # [resolution, resolution, 3]
    original_size: tuple[int, int]
    crop_top_left: tuple[int, int]

    @property
    def time_ids(self) -> tuple[int, ...]:
        """Original size, crop offset and target size, as `UNet2DConditionModel` takes them."""
        height, width, _ = self.pixels.shape
        return (*self.original_size, *self.crop_top_left, height, width)


def fit(image: Image.Image, resolution: int, mode: str = "center") -> Fitted:
    """`image` as a square of `resolution` pixels, by one of MODES.

    Offsets are measured in the resized picture, as diffusers' training scripts have them.
    """
    if mode not in MODES:
        raise RecipeError(f"crop: {mode!r} is not known; there are {', '.join(MODES)}")
    square, offset = MODES[mode](image, resolution)
    return Fitted(np.asarray(square, dtype=np.uint8), (image.height, image.width), offset)


def _cover(image: Image.Image, resolution: int) -> Image.Image:
    """Resized so that the shorter side is `resolution`."""
    scale = resolution / min(image.size)
    size = (
        max(resolution, round(image.width * scale)),
        max(resolution, round(image.height * scale)),
    )
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def _window(image: Image.Image, resolution: int, top: int, left: int) -> Image.Image:
    return image.crop((left, top, left + resolution, top + resolution))


def _center(image: Image.Image, resolution: int) -> tuple[Image.Image, tuple[int, int]]:
    cover = _cover(image, resolution)
    top, left = (cover.height - resolution) // 2, (cover.width - resolution) // 2
    return _window(cover, resolution, top, left), (top, left)


def _top(image: Image.Image, resolution: int) -> tuple[Image.Image, tuple[int, int]]:
    """Keeps the upper edge, where portraits have their heads."""
    cover = _cover(image, resolution)
    left = (cover.width - resolution) // 2
    return _window(cover, resolution, 0, left), (0, left)


def _squash(image: Image.Image, resolution: int) -> tuple[Image.Image, tuple[int, int]]:
    """All of the picture, its proportions given up."""
    size = (resolution, resolution)
    whole = image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
    return whole, (0, 0)


def _pad(image: Image.Image, resolution: int) -> tuple[Image.Image, tuple[int, int]]:
    """All of the picture at its own proportions, its edge pixels drawn out to the border."""
    scale = resolution / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    top, left = (resolution - size[1]) // 2, (resolution - size[0]) // 2
    border = ((top, resolution - size[1] - top), (left, resolution - size[0] - left), (0, 0))
    return Image.fromarray(np.pad(small, border, mode="edge")), (0, 0)


MODES: dict[str, Callable[[Image.Image, int], tuple[Image.Image, tuple[int, int]]]] = {
    "center": _center,
    "top": _top,
    "squash": _squash,
    "pad": _pad,
}
