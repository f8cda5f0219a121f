"""An adapter in host memory, checked against a base and laid out as the bank wants it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atelier.adapter.low_rank import LoraWeights
from atelier.errors import AdapterRejected
from services.engine.layout import Layout

NAMED = 8  # keys spelt out in an error


@dataclass(frozen=True)
class HostWeights:
    """One adapter, stacked by the bank's groups; alpha/rank is folded into `B`.

    `A[group]` is [layer, rank, in], `B[group]` is [layer, rank, out]; groups without any of the
    adapter's projections are absent. `mask` has the bits of the projections it changes.
    """

    A: Mapping[int, Tensor]
    B: Mapping[int, Tensor]
    rank: int
    mask: int

    @property
    def nbytes(self) -> int:
        """Host memory."""
        return sum(t.nbytes for pair in (self.A, self.B) for t in pair.values())


def pack(
    layout: Layout,
    lora: Mapping[str, LoraWeights],
    *,
    max_rank: int,
    dtype: torch.dtype,
    pin: bool = False,
    place: str = "adapter",
) -> HostWeights:
    """Stacks an adapter's pairs; raises AdapterRejected naming every key that does not fit."""
    _check(layout, lora, max_rank, place)
    rank = max((pair.rank for pair in lora.values()), default=0)
    A: dict[int, Tensor] = {}
    B: dict[int, Tensor] = {}
    mask = 0
    for path, pair in lora.items():
        projection = layout.by_path[path]
        group = layout.groups[projection.group]
        if projection.group not in A:
            A[projection.group] = torch.zeros(group.layers, rank, group.in_features, dtype=dtype)
            B[projection.group] = torch.zeros(group.layers, rank, group.out_features, dtype=dtype)
        own = pair.rank  # of a stored adapter, one pair at a time is read
        up = pair.B.astype(np.float32).T * pair.scale
        A[projection.group][projection.layer, :own] = torch.from_numpy(pair.A).to(dtype)
        B[projection.group][projection.layer, :own] = torch.from_numpy(up).to(dtype)
        mask |= 1 << projection.bit
    if pin:
        A, B = ({g: t.pin_memory() for g, t in side.items()} for side in (A, B))
    _check_finite(A, B, dtype, place)
    return HostWeights(A, B, rank, mask)


def _check(layout: Layout, lora: Mapping[str, LoraWeights], max_rank: int, place: str) -> None:
    unknown, misfits = [], []
    for path, pair in lora.items():
        projection = layout.by_path.get(path)
        if projection is None:
            unknown.append(path)
            continue
        group = layout.groups[projection.group]
        shape = (pair.out_features, pair.in_features)
        wanted = (group.out_features, group.in_features)
        if shape != wanted:
            misfits.append(f"{path} is {shape[0]}×{shape[1]}, the base has {wanted[0]}×{wanted[1]}")
    if unknown:
        raise AdapterRejected(
            f"{place}: the base has no such linear layers: {_some(unknown)}; "
            "the adapter was made for another base, or changes layers that are not served"
        )
    if misfits:
        raise AdapterRejected(f"{place}: made for another base: {_some(misfits)}")
    too_wide = [path for path, pair in lora.items() if pair.rank > max_rank]
    if too_wide:
        raise AdapterRejected(
            f"{place}: rank {max(lora[p].rank for p in too_wide)} is over this engine's "
            f"max_rank {max_rank}; raise max_rank or train a smaller adapter"
        )


def _check_finite(
    A: Mapping[int, Tensor], B: Mapping[int, Tensor], dtype: torch.dtype, place: str
) -> None:
    if not all(torch.isfinite(t).all() for side in (A, B) for t in side.values()):
        raise AdapterRejected(f"{place}: has values that {dtype} cannot hold")


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return "; ".join(names[:NAMED]) + rest
