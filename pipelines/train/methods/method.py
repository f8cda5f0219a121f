"""What the loop asks of a way to train."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from atelier.adapter.low_rank import LoraWeights
from pipelines.train.draws import Draws
from pipelines.train.samples import StageInputs


@dataclass(frozen=True)
class Loss:
    """A scalar to go down along, and the parts of it that are worth watching."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Method(Protocol):
    """One stage in training; `remarks` are what whoever waits should know before it begins."""

    remarks: list[str]

    def __init__(self, material: StageInputs) -> None: ...

    def trainable(self) -> dict[str, nn.Parameter]:
        """What is trained, by canonical key, in a fixed order."""
        ...

    def loss(self, draws: Draws) -> Loss:
        """The loss of this process's share of one batch; equal draws give the equal loss."""
        ...

    def adapter(self) -> dict[str, LoraWeights]:
        """The adapter as it is now."""
        ...
