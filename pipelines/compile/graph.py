"""The UNet as one function of tensors, the bank and the rows' slots among them.

Each group's pair of bank tensors is one input, [rank, layer, slot, features]. As in an embedding,
a projection looks its rows up: rank `r` of layer `l` in slot `s` is row `(r * layers + l) * slots +
s`. So rank and number of slots are dimensions like any other, a bank of rank 0 is the base alone,
and a graph has two inputs a shape of projection, whatever their number.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.engine.backends.compiled import bank_groups
from services.engine.banked import share
from services.engine.base import Base
from services.engine.layout import Layout, Projection

# diffusers hands on the sizes of skip connections only where a side is no multiple of 2 to the
# power of this, and a graph would keep what its example had. No side is a multiple of this one.
ALWAYS_BY_SIZE = 40


class Lookup:
    """The bank during the forward in progress: tables of rows, and each row's first index."""

    def __init__(self) -> None:
        self.tables: dict[int, tuple[Tensor, Tensor]] = {}  # by group: [rank * layer * slot, …]
        self.first: dict[int, Tensor] = {}  # by group: int64 [row, rank]
        self.slots = 0  # of the bank, slot 0 among them

    def set(self, slots: Tensor, groups: Sequence[int], bank: Sequence[Tensor]) -> None:
        """Takes the inputs: int64 [row], and pairs of [rank, layer, slot, features]."""
        for group, down, up in zip(groups, bank[::2], bank[1::2], strict=True):
            rank, layers, self.slots = down.shape[0], down.shape[1], down.shape[2]
            ranks = torch.arange(rank, device=slots.device) * (layers * self.slots)
            self.first[group] = slots[:, None] + ranks
            self.tables[group] = (down.flatten(0, 2), up.flatten(0, 2))


class LookupLinear(nn.Linear):
    """`y = Wx + b + B_s(A_s x)`, where `s` is each row's slot."""

    def __init__(self, linear: nn.Linear, place: Projection, lookup: Lookup) -> None:
        nn.Module.__init__(self)  # the parameters are the base's own; none are allocated
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.place = place
        self.lookup = lookup

    def forward(self, input: Tensor) -> Tensor:
        """[row, token, in] or [row, in] to the same with `out`."""
        lookup, place = self.lookup, self.place
        rows = lookup.first[place.group] + place.layer * lookup.slots
        down, up = (F.embedding(rows, table) for table in lookup.tables[place.group])
        tokens = input if input.dim() == 3 else input.unsqueeze(1)
        update = tokens @ down.transpose(1, 2) @ up  # [row, token, out]
        output = F.linear(input, self.weight, self.bias)
        return output + (update if input.dim() == 3 else update.squeeze(1))


class CompiledUNet(nn.Module):
    """The UNet of a base, sharing its parameters, with the inputs that every compiled one has."""

    def __init__(self, base: Base, layout: Layout) -> None:
        super().__init__()
        self.groups = bank_groups(layout)
        self.lookup = Lookup()
        self.unet = share(base.unet)
        self.unet.num_upsamplers = ALWAYS_BY_SIZE
        for place in layout.of("unet"):
            parent, _, name = place.module.rpartition(".")
            linear = LookupLinear(self.unet.get_submodule(place.module), place, self.lookup)
            setattr(self.unet.get_submodule(parent), name, linear)

    def forward(
        self,
        latents: Tensor,  # [row, 4, height, width], already scaled by the scheduler
        timesteps: Tensor,  # float32 [row]
        text: Tensor,  # [row, token, features]
        pooled: Tensor,  # [row, features]
        time_ids: Tensor,  # [row, 6]
        slots: Tensor,  # int64 [row]
        *bank: Tensor,  # a pair of [rank, layer, slot, features] a group
    ) -> Tensor:
        """The predicted noise (or v), [row, 4, height, width]."""
        self.lookup.set(slots, self.groups, bank)
        predicted: Tensor = self.unet(
            latents,
            timesteps,
            encoder_hidden_states=text,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
            return_dict=False,
        )[0]
        return predicted
