"""The interface of a UNet backend."""

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
    """Compute one UNet call for rows that have only the latent size in common.

    The bank and the slot of each row are inputs of every call. A swap is a copy into the bank and
    needs no change in a backend.
    """

    name: ClassVar[str]  # recorded in every result
    ladder: tuple[int, ...] = ()  # the supported batch sizes, ascending; empty if any size
    sizes: tuple[Shape, ...] = ()  # the supported latent sizes; empty if any size
    rank: int | None = None  # fixed rank of the bank inputs; None: the highest rank in use

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    @abstractmethod
    def describe(self) -> Mapping[str, str]:
        """Return the properties that affect the pixels, except base, torch and diffusers."""

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
        """Return the predicted noise (or v), in shape and dtype of latents [row, 4, height, width].

        `timesteps` is float32 [row], `text` [row, token, features], `pooled` [row, features],
        `time_ids` [row, 6], all on the latents' device. `slots` has the bank slot of each row. The
        bank tensors are not copied.
        """
        view = bank.view(slots, rank=self.rank)
        rows = torch.tensor(slots, device=latents.device)
        adapters = bank_inputs(view, self._layout)
        inputs = (latents, timesteps, text, pooled, time_ids, rows, *adapters)
        return self._run(inputs, view.mask)

    @abstractmethod
    def _run(self, inputs: Sequence[Tensor], mask: int) -> Tensor:
        """Compute a call from the inputs of `BankedUNet.forward`, in the same order.

        `mask` has the bits of the projections that the adapter of any row changes.
        """


def bank_inputs(view: BankView, layout: Layout) -> tuple[Tensor, ...]:
    """Return the bank inputs: A and B [rank, layer, slot, features] of each UNet group."""
    return tuple(side[i] for i in layout.groups_of("unet") for side in (view.A, view.B))
