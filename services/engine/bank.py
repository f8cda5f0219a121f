"""The device tensors that hold adapters: what makes an adapter data instead of a model.

For each group of projections (one component, one shape) there is a pair of tensors
`A[layer, slot, rank, in]` and `B[layer, slot, rank, out]`. `B` is stored transposed, so that a
narrower rank is a slice of whole rows on both sides; in memory the rank comes first, so that such a
slice is one piece, which a compiled UNet takes without a copy. Slot 0 is all zeros. Lower ranks are
padded with zeros. Several weighted adapters share one slot: they lie beside one another along the
rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.engine.layout import Layout
from services.engine.weights import HostWeights

INDEXABLE = 2**31 - 1  # elements; TensorRT and many kernels index with 32 bits


@dataclass(frozen=True)
class BankView:
    """The bank as one forward reads it: tensors cut to `rank`, and the projections to touch.

    The tensors are contiguous, as they lie in the bank: nothing is copied.
    """

    A: Mapping[int, Tensor]  # by group: [rank, layer, slot, in]
    B: Mapping[int, Tensor]  # by group: [rank, layer, slot, out]
    mask: int  # bits of the projections that any row's adapter changes


class Bank:
    """Slots 0 … slots of the bank's tensors, on one device."""

    def __init__(
        self,
        layout: Layout,
        *,
        slots: int,
        max_rank: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        """Allocates `slots` + 1 zeroed slots of rank `max_rank` for every group.

        Raises ValueError where a tensor would have more elements than 32 bits can index.
        """
        self.layout = layout
        self.max_rank = max_rank
        self._A: list[Tensor] = []
        self._B: list[Tensor] = []
        for group in layout.groups:
            width = max(group.in_features, group.out_features)
            if group.layers * (slots + 1) * max_rank * width > INDEXABLE:
                raise ValueError(
                    f"slots={slots} and max_rank={max_rank} give a bank tensor of more than 2³¹ "
                    "elements; lower one of them"
                )
            shape = (max_rank, group.layers, slots + 1)
            for side, features in ((self._A, group.in_features), (self._B, group.out_features)):
                stored = torch.zeros(*shape, features, dtype=dtype, device=device)
                side.append(stored.permute(1, 2, 0, 3))
        self._rank = [0] * (slots + 1)
        self._mask = [0] * (slots + 1)

    @torch.no_grad()
    def write(self, slot: int, parts: Sequence[tuple[HostWeights, float]]) -> None:
        """Fills slot 1 … slots with adapters, each with its weight, a factor on `B`.

        Copies are enqueued on the device's stream. Raises ValueError for slot 0, or where the ranks
        together exceed `max_rank`. After an error while copying the slot counts as empty.
        """
        rank = sum(weights.rank for weights, _ in parts)
        if not 0 < slot < len(self._rank) or rank > self.max_rank:
            raise ValueError(f"slot {slot}, rank {rank}: outside the bank")
        stale = max(rank, self._rank[slot])  # above it the slot is zero already
        self._rank[slot], self._mask[slot] = stale, 0  # until every copy is done
        for group in range(len(self._A)):
            start = 0
            for weights, weight in parts:
                rows = slice(start, start + weights.rank)
                A, B = self._A[group][:, slot, rows], self._B[group][:, slot, rows]
                start += weights.rank
                if group in weights.A:
                    A.copy_(weights.A[group], non_blocking=True)
                    B.copy_(weights.B[group], non_blocking=True)
                    if weight != 1.0:
                        B.mul_(weight)
                else:
                    A.zero_()
                    B.zero_()
            self._A[group][:, slot, start:stale].zero_()
            self._B[group][:, slot, start:stale].zero_()
        self._rank[slot] = rank
        for weights, _ in parts:
            self._mask[slot] |= weights.mask

    def view(self, slots: Iterable[int], *, rank: int | None = None) -> BankView:
        """What a batch with these slots has to read: rank 0 where all are slot 0.

        `rank` is for those who always read the same, however little of it is in use. The tensors
        are views: a later `write` shows in them.
        """
        used = set(slots)
        if rank is None:
            rank = max(self._rank[slot] for slot in used)
        mask = 0
        for slot in used:
            mask |= self._mask[slot]
        A, B = (
            {group: one.permute(2, 0, 1, 3)[:rank] for group, one in enumerate(side)}
            for side in (self._A, self._B)
        )
        return BankView(A, B, mask)

    @property
    def nbytes(self) -> int:
        """Device memory in bytes."""
        return sum(t.nbytes for t in (*self._A, *self._B))
