"""SSCD: a descriptor of pictures that finds copies, also cropped, recoloured or partial ones.

Pizzi et al., "A Self-Supervised Descriptor for Image Copy Detection" (2022): a ResNet with
generalised-mean pooling and a linear layer. A folder contains `config.json` (CopyConfig) and
`model.safetensors` with torchvision's names. `sscd_weights.py` makes it from the published file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atelier.adapter.safetensors_file import read_tensors
from atelier.errors import BadInput
from atelier.stores.model_files import CONFIG
from atelier.validation import summary

from .files import ScorerFiles
from .networks import unit_rows
from .pixels import DEVIATION, MEAN, normalized

WEIGHTS: Final = "model.safetensors"
CONVERT: Final = "convert SSCD's published weights with `atelier scorer convert`"
_LEAST: Final = 1e-6  # the power and the root need positive values
COUNTER: Final = "num_batches_tracked"  # of a batch normalisation; only training uses it


class CopyConfig(BaseModel):
    """The shape of the network; the defaults are those of `sscd_disc_mixup`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_type: Literal["sscd"] = "sscd"
    layers: tuple[int, int, int, int] = (3, 4, 6, 3)  # bottleneck blocks by stage: ResNet-50
    features: int = Field(default=512, gt=0)
    gem: float = Field(default=3.0, gt=0)  # the exponent of the pooling
    size: int = Field(default=288, ge=32)  # side of the input in pixels, as its authors recommend


class CopyDescriptor:
    """Implements CopyScorer. Raises PolicyError if the folder has no such network."""

    def __init__(self, source: ScorerFiles, device: str):
        self._device = device
        with source.opened() as folder:
            self._config = _config(source, folder / CONFIG)
            self._network = _network(source, folder / WEIGHTS, self._config).to(device)

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return [images, features] of unit length."""
        return unit_rows(images, self._batch)

    def _batch(self, images: list[Image.Image]) -> Any:
        import torch

        pixels = np.stack(
            [normalized(image, self._config.size, MEAN, DEVIATION) for image in images]
        )
        return self._network(torch.from_numpy(pixels).to(self._device))


def copy_network(config: CopyConfig) -> Any:
    """Return the network with random weights: [batch, 3, height, width] to [batch, features]."""
    from torchvision.models.resnet import Bottleneck, ResNet

    network = ResNet(Bottleneck, list(config.layers), num_classes=config.features)
    network.avgpool = _generalised_mean(config.gem)
    return network.eval()


def set_weights(network: Any, weights: Mapping[str, np.ndarray]) -> Any:
    """Return the network with these weights, by torchvision's names.

    Raises BadInput, which names the first of them, if weights are missing, unknown or of another
    shape.
    """
    import torch

    needed = {
        name: tuple(tensor.shape)
        for name, tensor in network.state_dict().items()
        if not name.endswith(COUNTER)
    }
    found = {name: array.shape for name, array in weights.items()}
    names = sorted(found.keys() | needed.keys())
    if wrong := [name for name in names if found.get(name) != needed.get(name)]:
        raise BadInput(
            f"{len(wrong)} weights are missing, unknown or of another shape "
            f"({', '.join(wrong[:3])})"
        )
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    network.load_state_dict(tensors, strict=False)  # without the counters
    return network


def _generalised_mean(exponent: float) -> Any:
    """Return a layer from [batch, channels, height, width] to [batch, channels]."""
    from torch import Tensor, nn

    class GeneralisedMean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            powers = x.clamp(min=_LEAST).pow(exponent)
            return powers.mean(dim=(2, 3)).pow(1 / exponent)

    return GeneralisedMean()


def _config(source: ScorerFiles, file: Path) -> CopyConfig:
    try:
        return CopyConfig.model_validate_json(file.read_bytes())
    except FileNotFoundError as error:
        raise source.error(f"it has no {CONFIG}", CONVERT) from error
    except ValidationError as error:
        raise source.error(f"{CONFIG}: {summary(error)}", CONVERT) from error


def _network(source: ScorerFiles, file: Path, config: CopyConfig) -> Any:
    try:
        return set_weights(copy_network(config), read_tensors(file))
    except BadInput as error:
        raise source.error(error, CONVERT) from error
