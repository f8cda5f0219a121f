"""The reference backend: the UNet of the base in eager torch, on CPU or CUDA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from services.engine.backends.protocol import Backend
from services.engine.banked import BankedUNet
from services.engine.base import Base
from services.engine.layout import Layout


class TorchBackend(Backend):
    """Run any batch size; projections that no adapter of the batch changes add no cost."""

    name = "torch"

    def __init__(self, base: Base, layout: Layout) -> None:
        """Share the parameters of the UNet of the base."""
        super().__init__(layout)
        self._unet = BankedUNet(base.unet, layout).eval()

    def describe(self) -> Mapping[str, str]:
        """Return nothing: only base, torch and diffusers affect the pixels."""
        return {}

    def _run(self, inputs: Sequence[Tensor], mask: int) -> Tensor:
        predicted: Tensor = self._unet(*inputs, mask=mask)
        return predicted
