"""Randomness that depends on where a run is, not on how it came there.

Every number of step *k* comes from a generator seeded by (seed, stage, k, purpose). So a run that
was killed and goes on draws what the unbroken run draws, whatever happened in between, and changing
how one thing is drawn changes nothing else. All numbers are drawn on the CPU: devices agree.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


def generator(seed: int, *purpose: object) -> torch.Generator:
    """A fresh CPU generator for one purpose."""
    text = "\x1f".join(map(str, (seed, *purpose)))
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return torch.Generator().manual_seed(number >> 1)


@dataclass(frozen=True)
class Draws:
    """The randomness of one batch: batch `part` of the `parts` that step `step` accumulates.

    Where several processes train, all draw for the whole batch, of which each takes its `share`.
    """

    seed: int
    stage: int
    step: int
    part: int = 0
    parts: int = 1
    rank: int = 0
    ranks: int = 1

    @property
    def batch_index(self) -> int:
        """How many batches came before, in this stage."""
        return self.step * self.parts + self.part

    def share(self, count: int) -> range:
        """Which of the batch's `count` rows are this process's; `count` is a multiple of all."""
        each = count // self.ranks
        return range(self.rank * each, (self.rank + 1) * each)

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers, float32, on the CPU."""
        return torch.randn(shape, generator=self._generator(purpose, self.part))

    def picks(self, purpose: str, count: int, out_of: int) -> list[int]:
        """The next `count` of an endless row of shuffled passes over `out_of` things."""
        first = self.batch_index * count
        passes: dict[int, list[int]] = {}
        picked = []
        for position in range(first, first + count):
            number, place = divmod(position, out_of)
            if number not in passes:
                order = generator(self.seed, self.stage, purpose, "pass", number)
                passes[number] = torch.randperm(out_of, generator=order).tolist()
            picked.append(passes[number][place])
        return picked

    def timesteps(self, purpose: str, count: int, out_of: int) -> Tensor:
        """`count` whole numbers below `out_of`, one from each of equal strata of the whole step.

        Each is uniform for itself, as in plain sampling, but together they cover the range evenly,
        which takes most of the variance out of a small batch's loss (stratified sampling, as in
        Kingma et al. 2021, "Variational Diffusion Models", appendix I.1).
        """
        strata = count * self.parts
        source = self._generator(purpose, "step")
        order = torch.randperm(strata, generator=source)
        inside = torch.rand(strata, generator=source, dtype=torch.float64)
        numbers = ((order + inside) / strata * out_of).long().clamp_(max=out_of - 1)
        return numbers[self.part * count : (self.part + 1) * count]

    def _generator(self, *purpose: object) -> torch.Generator:
        return generator(self.seed, self.stage, self.step, *purpose)
