"""Random UNet calls and random adapters, with which a graph is traced and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.engine.bank import Bank
from services.engine.base import Base
from services.engine.layout import Layout
from services.engine.scheduling import Shape
from services.engine.weights import HostWeights

EFFECT = 0.3  # size of an adapter's output relative to that of its layer


@dataclass(frozen=True)
class Call:
    """The arguments of a backend's `denoise`, except the bank."""

    latents: Tensor
    timesteps: Tensor
    text: Tensor
    pooled: Tensor
    time_ids: Tensor
    slots: Sequence[int]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """All arguments except the slots."""
        return (self.latents, self.timesteps, self.text, self.pooled, self.time_ids)


def random_call(base: Base, size: Shape, slots: Sequence[int], random: torch.Generator) -> Call:
    """Return a call with one row per slot, each with its own timestep and prompt.

    `size` is the height and width of the latents.
    """
    rows = len(slots)
    features = base.text_encoder_2.config.projection_dim
    tokens, width = base.tokenizer.model_max_length, base.unet.config.cross_attention_dim
    shapes = ((base.unet.config.in_channels, *size), (tokens, width), (features,))
    latents, text, pooled = (
        torch.randn(rows, *shape, generator=random).to(base.device, base.dtype) for shape in shapes
    )
    height, width = (side * base.reduction for side in size)
    ids = torch.tensor([height, width, 0, 0, height, width], dtype=base.dtype, device=base.device)
    timesteps = torch.linspace(999.0, 1.0, rows, device=base.device)
    return Call(latents, timesteps, text, pooled, ids.repeat(rows, 1), slots)


def random_bank(
    base: Base, layout: Layout, *, slots: int, max_rank: int, ranks: Sequence[int], seed: int = 0
) -> Bank:
    """Return a bank with random adapters of these ranks in slots 1, 2, …

    Each adapter has weights for every projection of the UNet.
    """
    bank = Bank(layout, slots=slots, max_rank=max_rank, dtype=base.dtype, device=base.device)
    random = torch.Generator().manual_seed(seed)
    for slot, rank in enumerate(ranks, start=1):
        bank.write(slot, [(random_weights(base, layout, rank, random), 1.0)])
    return bank


def random_weights(base: Base, layout: Layout, rank: int, random: torch.Generator) -> HostWeights:
    """Return an adapter whose effect has the size EFFECT for layers of any width."""
    downs, ups = {}, {}
    for place in layout.of("unet"):
        group = layout.groups[place.group]
        if place.group not in downs:
            shape = (group.layers, rank)
            down = torch.randn(*shape, group.in_features, generator=random)
            up = torch.randn(*shape, group.out_features, generator=random)
            downs[place.group] = (down / group.in_features**0.5).to(base.dtype)
            ups[place.group] = (up * EFFECT / rank**0.5).to(base.dtype)
    return HostWeights(downs, ups, rank, layout.mask("unet"))
