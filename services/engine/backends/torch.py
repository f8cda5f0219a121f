"""The reference backend: the base's own UNet in eager torch, on CPU or CUDA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from services.engine.bank import Bank
from services.engine.banked import BankedUNet
from services.engine.base import Base
from services.engine.layout import Layout
from services.engine.scheduling import Shape


class TorchBackend:
    """Runs any batch size; projections that no row's adapter changes cost nothing."""

    name = "torch"
    ladder: tuple[int, ...] = ()
    sizes: tuple[Shape, ...] = ()

    def __init__(self, base: Base, layout: Layout) -> None:
        self._unet = BankedUNet(base.unet, layout).eval()

    def describe(self) -> Mapping[str, str]:
        """See Backend."""
        return {}

    def denoise(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: Tensor,
        pooled: Tensor,
        time_ids: Tensor,
        slots: Sequence[int],
        bank: Bank,
    ) -> Tensor:
        """See Backend."""
        rows = torch.tensor(slots, device=latents.device)
        view = bank.view(slots)
        predicted: Tensor = self._unet(latents, timesteps, text, pooled, time_ids, rows, view)
        return predicted
