"""Detects pictures that reproduce a training picture, by aligned correlation of their pixels.

Features that recognise a subject cannot detect copies: they also give a high score to a faithful
picture of the same subject in another scene. A copy has the same layout as its original. Each
picture is therefore reduced to two forms: colours at 32 × 32 pixels, and contours (the picture
minus its blur) at 48 × 48. Each form is correlated pixel by pixel with that of each training
picture, over small shifts and mirroring. Carlini et al., "Extracting Training Data from Diffusion
Models" (2023), also compare pixels.

Values on drawings of the miniature's script:

- a training picture reproduced with the blur and noise of a VAE: at least 0.995; if it is also
  shifted, mirrored and relit: about 0.92
- another drawing of the same character: at most 0.94 if the training pictures show the place,
  0.86 in another place
- other characters: less than 0.63

Pictures by adapters score lower than drawings; README.md lists their values.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageFilter, ImageOps

COLOUR_SIDE: Final = 32
CONTOUR_SIDE: Final = 48
CONTOUR_BLUR: Final = 4.0
SHIFT: Final = 1 / 16  # fraction of the side, in each direction


def copying(pictures: Sequence[Image.Image], training: Sequence[Image.Image]) -> np.ndarray:
    """Return the similarity [pictures, training pictures], from about 0 to 1 (a copy)."""
    views = (_colours, _contours)
    return np.mean(
        [_similarity([view(i) for i in pictures], [view(i) for i in training]) for view in views],
        axis=0,
    )


def _colours(image: Image.Image) -> np.ndarray:
    """Return [side, side, 3] in levels of 255."""
    return np.asarray(_small(image, COLOUR_SIDE), dtype=np.float32)


def _contours(image: Image.Image) -> np.ndarray:
    """Return [side, side, 3]: the picture minus its Gaussian blur, in levels of 255."""
    small = _small(image, CONTOUR_SIDE)
    soft = small.filter(ImageFilter.GaussianBlur(CONTOUR_BLUR))
    return np.asarray(small, dtype=np.float32) - np.asarray(soft, dtype=np.float32)


def _small(image: Image.Image, side: int) -> Image.Image:
    return ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BOX)


def _similarity(pictures: Sequence[np.ndarray], training: Sequence[np.ndarray]) -> np.ndarray:
    """Return the highest correlation [pictures, training] over shifts and mirroring."""
    side = pictures[0].shape[0]
    reach = max(1, round(side * SHIFT))
    best = np.full((len(pictures), len(training)), -1.0)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            ours = _unit([view[_overlap(dy, side), _overlap(dx, side)] for view in pictures])
            for flip in (1, -1):
                theirs = _unit(
                    [view[:, ::flip][_overlap(-dy, side), _overlap(-dx, side)] for view in training]
                )
                best = np.maximum(best, ours @ theirs.T)
    return best


def _overlap(shift: int, side: int) -> slice:
    """Return the rows that overlap if a picture is moved by `shift` rows."""
    return slice(max(0, shift), min(side, side + shift))


def _unit(views: Sequence[np.ndarray]) -> np.ndarray:
    """Return [n, pixels] of unit length, without each channel's mean; zeros for a plain picture."""
    flat = np.stack([(view - view.mean(axis=(0, 1))).ravel() for view in views])
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
