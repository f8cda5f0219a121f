"""Loads the scorers that a policy names, each as a folder, a hub ID or an address in the registry.

An address pins the files by digest (`mlflow://scorers/<hex>`). ../README.md lists models for SDXL.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from .clip import ClipScorer
from .copy_descriptor import CopyDescriptor
from .dino import DinoScorer
from .face import Faces
from .files import ScorerFiles, find_scorers
from .protocols import OptionalScorers, SaliencyScorer
from .saliency import OnnxSaliency
from .token_cut import TokenCut


class Scorers:
    """All scorers of a policy, in evaluation mode on one device. Implements measures.Scorer.

    `names` are by role: `clip` and `dino`, and the optional `copy`, `face` and `saliency`. Raises
    PolicyError if a scorer cannot be found or loaded.
    """

    def __init__(self, names: Mapping[str, str], device: str = "cpu"):
        self.names = {role: str(name) for role, name in names.items()}
        self._files = find_scorers(self.names)
        self._clip = ClipScorer(self._files["clip"], device)
        self._dino = DinoScorer(self._files["dino"], device)
        copy, face = self._files.get("copy"), self._files.get("face")
        self.optional = OptionalScorers(
            copy=CopyDescriptor(copy, device) if copy else None,
            face=Faces(face, device) if face else None,
            saliency=self._saliency(self._files.get("saliency"), device),
        )

    def _saliency(self, source: ScorerFiles | None, device: str) -> SaliencyScorer | None:
        if source:
            return OnnxSaliency(source, device)
        return TokenCut(self._dino) if "saliency" in self.names else None

    @property
    def digests(self) -> dict[str, str]:
        """The digest of the loaded files, by role."""
        return {role: source.digest for role, source in self._files.items()}

    def dino(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return [images, features] that distinguish individuals of one class."""
        return self._dino.features(images)

    def clip_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return [images, features] in CLIP's shared space."""
        return self._clip.images(images)

    def clip_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return [texts, features] in CLIP's shared space; long texts are truncated."""
        return self._clip.texts(texts)
