"""Tells whether all pictures of a dataset have one background, which an adapter would learn."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE: Final = 16  # pixels of the views that are compared; small, because objects may move a little
FEWEST: Final = 4  # pictures
# Levels of 255. On drawings, the median deviation at the border is at most 10 for pictures in one
# place, and at least 23 if one of six pictures is in another place.
SPREAD: Final = 15.0


def one_background(
    pictures: Sequence[Image.Image], mark: npt.NDArray[np.bool_] | None = None
) -> bool:
    """Return whether the borders of all pictures have the same colours at the same places.

    `mark` [height, width] are pixels to ignore, of a mark that the pictures share. Returns False
    for fewer than FEWEST pictures, and if a mark covers most of the border.
    """
    if len(pictures) < FEWEST:
        return False
    views = np.stack([_view(picture) for picture in pictures])
    border = np.ones((SIDE, SIDE), dtype=bool)
    border[1:-1, 1:-1] = False
    border_length = border.sum()
    if mark is not None:
        border &= ~_covered(mark)
    if border.sum() < border_length / 2:
        return False
    return bool(np.median(views.std(axis=0).max(axis=2)[border]) < SPREAD)


def _view(picture: Image.Image) -> npt.NDArray[np.float32]:
    small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)


def _covered(mark: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return [SIDE, SIDE]: the pixels of a view that contain pixels of a mark."""
    small = Image.fromarray(mark.astype(np.uint8) * 255).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small) > 0
