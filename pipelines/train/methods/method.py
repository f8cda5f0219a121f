"""The interface between the training loop and a training method."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from atelier.adapter.low_rank import LoraWeights
from pipelines.train.draws import Draws
from pipelines.train.samples import StageInputs


@dataclass(frozen=True)
class Loss:
    """The scalar to minimise, and the parts of the scalar to report, by name."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Method(Protocol):
    """A training method, set up for one stage; `remarks` are shown before it starts."""

    remarks: list[str]

    def __init__(self, material: StageInputs) -> None: ...

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by canonical key, in a fixed order."""
        ...

    def loss(self, draws: Draws) -> Loss:
        """Return the loss of this process's share of one batch; equal `draws` give equal losses."""
        ...

    def adapter(self) -> dict[str, LoraWeights]:
        """Return the current weights of the adapter."""
        ...
