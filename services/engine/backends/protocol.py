"""What a backend must do. Whoever does it can serve."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from services.engine.bank import Bank, BankView
from services.engine.layout import Layout
from services.engine.scheduling import Shape


class Backend(ABC):
    """Computes one UNet call for rows that need not have anything in common but their size.

    The bank and the rows' slots come with every call, whoever computes it: a swap is a copy into
    the bank, and no backend notices it.
    """

    name: ClassVar[str]  # goes into every result, for a picture belongs to what made it
    ladder: tuple[int, ...] = ()  # the batch sizes it can run, ascending; empty where any will do
    sizes: tuple[Shape, ...] = ()  # of the latents that it can run; empty where any will do
    rank: int | None = None  # of the bank, where every call reads the same; None: that in use

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    @abstractmethod
    def describe(self) -> Mapping[str, str]:
        """What decides about the pixels, beside the base, torch and diffusers."""

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
        """The predicted noise (or v) of latents [row, 4, height, width], of their shape and dtype.

        Timesteps are float32 [row], text [row, token, features], pooled [row, features], time_ids
        [row, 6], all on the latents' device; `slots` has each row's slot of the bank. Bank tensors
        and latents are read where they lie.
        """
        view = bank.view(slots, rank=self.rank)
        rows = torch.tensor(slots, device=latents.device)
        adapters = bank_inputs(view, self._layout)
        inputs = (latents, timesteps, text, pooled, time_ids, rows, *adapters)
        return self._run(inputs, view.mask)

    @abstractmethod
    def _run(self, inputs: Sequence[Tensor], mask: int) -> Tensor:
        """Computes a call from the inputs that every UNet has, in the order of `BankedUNet`'s.

        `mask` has the bits of the projections that any row's adapter changes.
        """


def bank_inputs(view: BankView, layout: Layout) -> tuple[Tensor, ...]:
    """The bank as a UNet takes it: A and B of each of its groups, [rank, layer, slot, features]."""
    return tuple(side[i] for i in layout.groups_of("unet") for side in (view.A, view.B))
