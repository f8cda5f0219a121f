"""The device tensors that contain the adapters, an input of the UNet.

For each group of projections (one component, one shape) there is a pair of tensors
`A[layer, slot, rank, in]` and `B[layer, slot, rank, out]`. `B` is stored transposed, so that a
lower rank is a slice of whole rows in both tensors. In memory the rank is the first dimension, so
that such a slice is contiguous and a compiled UNet takes it without a copy. Slot 0 contains only
zeros. An adapter of a lower rank is padded with zeros. Several weighted adapters in one slot are
concatenated along the rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.engine.layout import Layout
from services.engine.weights import HostWeights

INDEXABLE = 2**31 - 1  # limit of elements; TensorRT and many kernels index with 32 bits


@dataclass(frozen=True)
class BankView:
    """The bank for one forward: tensors cut to a rank, and the mask of changed projections.

    The tensors are contiguous views of the bank, without a copy.
    """

    A: Mapping[int, Tensor]  # by group: [rank, layer, slot, in]
    B: Mapping[int, Tensor]  # by group: [rank, layer, slot, out]
    mask: int  # bits of the projections that the adapter of any row changes


class Bank:
    """The bank's tensors with slots 0 … `slots`, on one device."""

    def __init__(
        self,
        layout: Layout,
        *,
        slots: int,
        max_rank: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        """Allocate `slots` + 1 zeroed slots of rank `max_rank` for every group.

        Raises ValueError if a tensor would have 2³¹ elements or more.
        """
        self.layout = layout
        self.max_rank = max_rank
        self._A: list[Tensor] = []
        self._B: list[Tensor] = []
        for group in layout.groups:
            width = max(group.in_features, group.out_features)
            if group.layers * (slots + 1) * max_rank * width > INDEXABLE:
                raise ValueError(
                    f"slots={slots}, max_rank={max_rank}: a bank tensor would have 2³¹ elements or "
                    "more; lower one of the two settings"
                )
            shape = (max_rank, group.layers, slots + 1)
            for side, features in ((self._A, group.in_features), (self._B, group.out_features)):
                stored = torch.zeros(*shape, features, dtype=dtype, device=device)
                side.append(stored.permute(1, 2, 0, 3))
        self._rank = [0] * (slots + 1)
        self._mask = [0] * (slots + 1)

    @torch.no_grad()
    def write(self, slot: int, parts: Sequence[tuple[HostWeights, float]]) -> None:
        """Write adapters to one of the slots 1 … `slots`. `B` is multiplied by the weight.

        The copies are enqueued on the stream of the device. Raises ValueError if `slot` is 0, or if
        the total rank exceeds `max_rank`. After an error during a copy, the slot counts as empty.
        """
        rank = sum(weights.rank for weights, _ in parts)
        if not 0 < slot < len(self._rank) or rank > self.max_rank:
            raise ValueError(
                f"slot {slot}, rank {rank}: outside the bank (slots 1 to {len(self._rank) - 1}, "
                f"max_rank {self.max_rank})"
            )
        stale = max(rank, self._rank[slot])  # the higher ranks of the slot are already zero
        self._rank[slot], self._mask[slot] = stale, 0  # the values until every copy is done
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
        """Return the view for a batch with these slots. Its rank is 0 if every slot is slot 0.

        `rank` overrides the highest rank in use, for graphs of a fixed shape. A later `write`
        changes the view.
        """
        used = set(slots)
        if rank is None:
            rank = max(self._rank[slot] for slot in used)
        mask = 0
        for slot in used:
            mask |= self._mask[slot]
        A, B = (
            {group: tensor.permute(2, 0, 1, 3)[:rank] for group, tensor in enumerate(side)}
            for side in (self._A, self._B)
        )
        return BankView(A, B, mask)

    @property
    def nbytes(self) -> int:
        """Device memory of the bank in bytes."""
        return sum(t.nbytes for t in (*self._A, *self._B))
