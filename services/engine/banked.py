"""Networks of a base whose projections read their low-rank pairs from the bank.

The networks share the parameters of the base without a copy and do not modify the base. Bank and
slots are inputs of the forward, and therefore also inputs of the graph that `pipelines/compile`
exports. The same network runs in eager torch.
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

EVERY_PROJECTION = -1  # a mask with every bit set

# For one group during a forward: int64 row indices [row, rank] for each layer, and the tables that
# they index, [rank * layer * slot, in] and [rank * layer * slot, out].
_Lookup = tuple[Sequence[Tensor], Tensor, Tensor]


class Binding:
    """The bank and the slot of each row during the current forward.

    A projection looks up its pair as an embedding does: rank `r` of layer `l` in slot `s` is row
    `(r * layers + l) * slots + s` of the tables of its group. The rank and the number of slots are
    therefore ordinary dimensions. A bank of rank 0 gives the base without adapters. An exported
    graph has two inputs per group, independent of the number of projections.
    """

    def __init__(self) -> None:
        self._slots: Tensor | None = None
        self._bank: BankView | None = None
        self._lookups: dict[int, _Lookup] = {}  # by group, created by its first projection

    def set(self, slots: Tensor, bank: BankView) -> None:
        """Set the inputs of the next forward; `slots` is int64 [row]."""
        self._slots, self._bank = slots, bank
        self._lookups = {}

    def pair(self, place: Projection) -> tuple[Tensor, Tensor] | None:
        """Return A [row, rank, in] and B [row, rank, out].

        Return None if no row has an adapter that changes this projection.
        """
        if self._slots is None or self._bank is None or not self._bank.mask >> place.bit & 1:
            return None
        if place.group not in self._lookups:
            A, B = self._bank.A[place.group], self._bank.B[place.group]
            self._lookups[place.group] = _lookup(self._slots, A, B)
        rows, A, B = self._lookups[place.group]
        indices = rows[place.layer]
        return torch.embedding(A, indices), torch.embedding(B, indices)


def _lookup(slots: Tensor, A: Tensor, B: Tensor) -> _Lookup:
    """Return the row indices and tables of one group; A and B are [rank, layer, slot, features]."""
    rank, layers, count = A.shape[:3]
    ranks = torch.arange(rank, device=slots.device) * (layers * count)  # [rank]
    first = torch.arange(layers, device=slots.device) * count  # [layer]
    rows = first[:, None, None] + slots[:, None] + ranks  # [layer, row, rank]
    return rows.unbind(0), A.flatten(0, 2), B.flatten(0, 2)


class FrozenLinear(nn.Linear):
    """A linear layer that shares the parameters of another linear layer."""

    def __init__(self, linear: nn.Linear) -> None:
        """Share weight and bias of `linear` without a copy."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias


class BankedLinear(FrozenLinear):
    """`y = Wx + b + B_s(A_s x)` with the slot `s` of each row (LoRA, Hu et al. 2021)."""

    def __init__(self, linear: nn.Linear, place: Projection, binding: Binding) -> None:
        """Read the pair of the projection `place` from `binding`, which the network shares."""
        super().__init__(linear)
        self.place = place
        self.binding = binding

    def forward(self, input: Tensor) -> Tensor:
        """Map [row, token, in] or [row, in] to `out` features, in the parameters' dtype."""
        output = F.linear(input, self.weight, self.bias)
        pair = self.binding.pair(self.place)
        if pair is None:
            return output
        A, B = pair
        flat = input.dim() == 2
        rows = input.unsqueeze(1) if flat else input
        narrow = torch.bmm(rows, A.transpose(1, 2))  # [row, token, rank]
        # Under export, baddbmm becomes a bmm with two extra multiplications by one.
        if torch.jit.is_tracing():  # type: ignore[attr-defined]
            update = torch.bmm(narrow, B)
            return output + (update.squeeze(1) if flat else update)
        # In place, because nothing else uses `output` and a second tensor would double the cost.
        (output.unsqueeze(1) if flat else output).baddbmm_(narrow, B)
        return output


def share(module: Any) -> Any:
    """Return a copy of the modules of a network that shares the parameters and buffers."""
    memo = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    return copy.deepcopy(module, memo)


def replace_linear(network: Any, module: str, layer: FrozenLinear) -> None:
    """Replace the submodule named `module` by `layer`."""
    parent, _, name = module.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)


def bank_projections(network: Any, places: Sequence[Projection], binding: Binding) -> None:
    """Replace the projections `places` of a network by BankedLinear layers, in place."""
    for place in places:
        linear = network.get_submodule(place.module)
        replace_linear(network, place.module, BankedLinear(linear, place, binding))


class BankedUNet(nn.Module):
    """The UNet of a base, with the bank and the slot of each row as further inputs."""

    def __init__(self, unet: Any, layout: Layout) -> None:
        """Copy the modules of a UNet2DConditionModel; the parameters are shared."""
        super().__init__()
        self.groups = layout.groups_of("unet")
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
        *bank: Tensor,  # a pair of [rank, layer, slot, features] for each of the UNet's groups
        mask: int = EVERY_PROJECTION,  # bits of the projections that an adapter of any row changes
    ) -> Tensor:
        """Return the predicted noise (or v), [row, 4, height, width], in the latents' dtype."""
        A, B = (dict(zip(self.groups, side, strict=True)) for side in (bank[::2], bank[1::2]))
        self.binding.set(slots, BankView(A, B, mask))
        predicted: Tensor = self.unet(
            latents,
            timesteps,
            encoder_hidden_states=text,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
            return_dict=False,
        )[0]
        return predicted
