"""Separates the subject from the background without a network of its own: by DINO's attention.

The class token of a ViT trained with DINO attends to the foreground (Caron et al., "Emerging
Properties in Self-Supervised Vision Transformers", 2021). As in that paper, the mask keeps the
patches that together hold 60 % of the attention.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

from .dino import DinoScorer

MASS: Final = 0.6


class AttentionSaliency:
    """Implements SaliencyScorer with the network of `scorers.dino`.

    Raises PolicyError if the network has no attention.
    """

    def __init__(self, dino: DinoScorer):
        self._dino = dino
        self.masks([Image.new("RGB", (64, 64))])  # an early error, before a picture is rendered

    def masks(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """Return for each picture a mask of its size, [height, width]: True on the subject."""
        maps = self._dino.attention(images)
        return [
            attended(attention, image.size) for attention, image in zip(maps, images, strict=True)
        ]


def attended(attention: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a mask, [height, width], of the patches that hold MASS of the attention.

    `attention` is [rows, columns] with the sum 1; `size` is width and height in pixels.
    """
    descending = np.sort(attention, axis=None)[::-1]
    kept = int(np.searchsorted(np.cumsum(descending), MASS))
    least = descending[min(kept, len(descending) - 1)]
    smooth = Image.fromarray(attention.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(smooth) >= least
