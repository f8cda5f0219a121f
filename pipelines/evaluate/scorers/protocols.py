"""The interfaces of the optional scorers, so that measures do not depend on their networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image


class CopyScorer(Protocol):
    """A copy detector: it recognises the same picture, not the same subject."""

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return [images, features] of unit length."""


class FaceScorer(Protocol):
    """A face detector and a network that distinguishes people by their faces."""

    def faces(self, images: Sequence[Image.Image]) -> list[np.ndarray | None]:
        """Return the features of unit length of each picture's largest face, None without one."""


class SaliencyScorer(Protocol):
    """A network that separates the subject from the background."""

    def masks(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """Return for each picture a mask of its size, [height, width]: True on the subject."""


@dataclass(frozen=True)
class OptionalScorers:
    """The optional scorers that a policy names; None for the others."""

    copy: CopyScorer | None = None
    face: FaceScorer | None = None
    saliency: SaliencyScorer | None = None
