"""Separates the subject from the background with a salient-object network in ONNX.

Qin et al., "U²-Net: Going Deeper with Nested U-Structure for Salient Object Detection" (2020), and
networks with the same interface (IS-Net, BiRefNet). A folder contains `saliency.onnx` and, for
another network than U²-Net, `saliency.json` (SaliencyConfig).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atelier.stores.model_files import SALIENCY
from atelier.validation import summary

from .files import ScorerFiles
from .onnx_network import OnnxNetwork
from .pixels import DEVIATION, MEAN, normalized

CONFIG: Final = "saliency.json"
_FIX: Final = (
    f"give a folder with U²-Net as {SALIENCY}, or another network with its settings in {CONFIG}"
)
_SUBJECT: Final = 0.5  # the networks are trained with the probability of the subject

Colour = Annotated[tuple[float, ...], Field(min_length=3, max_length=3)]


class SaliencyConfig(BaseModel):
    """The input and the output of the network; the defaults are U²-Net's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(default=320, ge=32)  # side in pixels, if the network takes any
    mean: Colour = MEAN
    deviation: Colour = DEVIATION
    logits: bool = False  # whether the output must pass through a sigmoid (BiRefNet)


class OnnxSaliency:
    """Implements SaliencyScorer. Raises PolicyError if the folder has no such network."""

    def __init__(self, source: ScorerFiles, device: str):
        self._source = source
        with source.opened() as folder:
            self._config = _config(source, folder / CONFIG)
            self._network = OnnxNetwork(source, folder / SALIENCY, device, fix=_FIX)
        self._side = self._network.side(self._config.size)

    def masks(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """Return for each picture a mask of its size, [height, width]: True on the subject."""
        return [self._mask(image) for image in images]

    def _mask(self, image: Image.Image) -> np.ndarray:
        config = self._config
        pixels = normalized(image, self._side, config.mean, config.deviation)
        probability = self._probability(np.squeeze(self._network.run(pixels)[0]))
        smooth = Image.fromarray(probability).resize(image.size, Image.Resampling.BILINEAR)
        return np.asarray(smooth) >= _SUBJECT

    def _probability(self, output: np.ndarray) -> np.ndarray:
        """Return [height, width] in float32, from 0 to 1."""
        if output.ndim != 2:
            raise self._source.error(f"{SALIENCY} has no map as its first output", _FIX)
        if self._config.logits:
            output = 1 / (1 + np.exp(-output))
        elif output.min() < 0 or output.max() > 1:
            raise self._source.error(
                f"{SALIENCY} returns values outside 0 to 1", f"set `logits` to true in {CONFIG}"
            )
        return output.astype(np.float32)


def _config(source: ScorerFiles, file: Path) -> SaliencyConfig:
    if not file.exists():
        return SaliencyConfig()
    try:
        return SaliencyConfig.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise source.error(f"{CONFIG}: {summary(error)}", f"correct {CONFIG}") from error
