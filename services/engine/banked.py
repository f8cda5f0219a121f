"""A base's networks with every projection reading its low-rank pair from the bank.

The clones share the base's parameters: nothing is copied, and the base stays as it is. Bank and
slots are inputs of the forward, so that an exported graph has them as inputs too.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.engine.bank import BankView
from services.engine.layout import Layout, Projection


class Binding:
    """What the projections of one network read during the forward in progress."""

    def __init__(self) -> None:
        self.slots: Tensor | None = None  # int64 [row]
        self.A: Sequence[Tensor] = ()
        self.B: Sequence[Tensor] = ()
        self.mask = 0

    def set(self, slots: Tensor, bank: BankView) -> None:
        """Binds the inputs of the forward that follows."""
        self.slots, self.A, self.B, self.mask = slots, bank.A, bank.B, bank.mask


class BankedLinear(nn.Linear):
    """`y = Wx + b + B_s(A_s x)`, where `s` is each row's slot."""

    def __init__(self, linear: nn.Linear, place: Projection, binding: Binding) -> None:
        nn.Module.__init__(self)  # the parameters are the base's own; none are allocated
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.place = place
        self.binding = binding

    def forward(self, input: Tensor) -> Tensor:
        """[row, token, in] or [row, in] to the same with `out`."""
        output = F.linear(input, self.weight, self.bias)
        binding, place = self.binding, self.place
        if binding.slots is None or not binding.mask >> place.bit & 1:
            return output
        A = binding.A[place.group][place.layer].index_select(0, binding.slots)  # [row, rank, in]
        B = binding.B[place.group][place.layer].index_select(0, binding.slots)  # [row, rank, out]
        rows = input if input.dim() == 3 else input.unsqueeze(1)
        narrow = torch.bmm(rows, A.mT)  # [row, token, rank]
        # In place: the output is new and nobody else's, and a second one would cost as much again.
        output.view(len(rows), -1, self.out_features).baddbmm_(narrow, B)
        return output


def share(module: Any) -> Any:
    """A copy of a network's modules that keeps the very same parameters and buffers."""
    kept = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    return copy.deepcopy(module, kept)


def bank_projections(network: Any, places: Sequence[Projection], binding: Binding) -> None:
    """Replaces the projections of a shared network by banked ones, in place."""
    for place in places:
        parent, _, name = place.module.rpartition(".")
        linear = network.get_submodule(place.module)
        setattr(network.get_submodule(parent), name, BankedLinear(linear, place, binding))


class BankedUNet(nn.Module):
    """The UNet of a base with the bank and the rows' slots as inputs."""

    def __init__(self, unet: Any, layout: Layout) -> None:
        super().__init__()
        self.binding = Binding()
        self.unet = share(unet)
        bank_projections(self.unet, layout.of("unet"), self.binding)

    def forward(
        self,
        latents: Tensor,  # [row, 4, height, width], already scaled by the scheduler
        timesteps: Tensor,  # float32 [row]
        text: Tensor,  # [row, token, features]
        pooled: Tensor,  # [row, features]
        time_ids: Tensor,  # [row, 6]
        slots: Tensor,  # int64 [row]
        bank: BankView,
    ) -> Tensor:
        """The predicted noise (or v), [row, 4, height, width]."""
        self.binding.set(slots, bank)
        predicted: Tensor = self.unet(
            latents,
            timesteps,
            encoder_hidden_states=text,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
            return_dict=False,
        )[0]
        return predicted
