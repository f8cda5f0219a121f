"""Measures how much fine detail a picture has, compared with the pictures of the base.

A smeared picture has less detail than the base's pictures, and a noisy one has more. Similarity to
the subject cannot tell: a blurred subject is still similar.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

SIDE: Final = 256  # larger pictures are reduced, so that the grain of a photograph does not count


def sharpness(pictures: Sequence[Image.Image], base: Sequence[Image.Image]) -> np.ndarray:
    """Return each picture's detail divided by the median of the base's: 1 is equally sharp."""
    usual = float(np.median([detail(image) for image in base]))
    return np.array([detail(image) for image in pictures]) / max(usual, 1e-6)


def detail(image: Image.Image) -> float:
    """Return the root mean square of the Laplacian of the brightness, in levels of 255.

    The variance of the Laplacian is the usual measure of focus (Pech-Pacheco et al., 2000).
    """
    grey = image.convert("L")
    if max(grey.size) > SIDE:
        grey.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    y = np.asarray(grey, dtype=np.float32)
    laplacian = y[1:-1, :-2] + y[1:-1, 2:] + y[:-2, 1:-1] + y[2:, 1:-1] - 4 * y[1:-1, 1:-1]
    return float(np.sqrt((laplacian**2).mean()))
