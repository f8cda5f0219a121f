"""Prepares a picture for a network that transformers has no image processor for."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

# The usual statistics of ImageNet.
MEAN: Final = (0.485, 0.456, 0.406)
DEVIATION: Final = (0.229, 0.224, 0.225)


def normalized(
    image: Image.Image, size: int, mean: Sequence[float], deviation: Sequence[float]
) -> np.ndarray:
    """Return [3, size, size] in float32: the whole picture, skewed to a square and normalised."""
    small = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(small, dtype=np.float32) / 255
    return ((pixels - np.float32(mean)) / np.float32(deviation)).transpose(2, 0, 1)
