"""Random numbers that depend only on the position in the run.

Every number of step *k* comes from a generator seeded by (seed, stage, k, purpose). A resumed run
therefore generates the same numbers as an uninterrupted run, and a change to one purpose does not
affect the others. All numbers are generated on the CPU, so they do not depend on the device.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


def generator(seed: int, *purpose: object) -> torch.Generator:
    """Return a new CPU generator seeded by a hash of `seed` and `purpose`."""
    text = "\x1f".join(map(str, (seed, *purpose)))
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return torch.Generator().manual_seed(number >> 1)


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch: batch `part` of the `parts` that step `step` accumulates.

    If several processes train together, each draws the numbers of the whole batch and uses its
    `share` of them.
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
        """The number of earlier batches in this stage."""
        return self.step * self.parts + self.part

    def share(self, count: int) -> range:
        """Return which of the `count` rows of the batch belong to this process.

        `count` is a multiple of the number of processes.
        """
        each = count // self.ranks
        return range(self.rank * each, (self.rank + 1) * each)

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal numbers of `shape`, float32, on the CPU."""
        return torch.randn(shape, generator=self._generator(purpose, self.part))

    def picks(self, purpose: str, count: int, out_of: int) -> list[int]:
        """Return `count` indices below `out_of` for this batch, from an endless sequence.

        The sequence consists of shuffled passes: each contains every index once.
        """
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
        """Return `count` timesteps below `out_of`, int64 [count], by stratified sampling.

        The range is divided into one stratum for each timestep of the whole step. Each timestep is
        uniform, but together they cover the range evenly, which removes most of the variance from
        the loss of a small batch (Kingma et al. 2021, "Variational Diffusion Models", appendix
        I.1).
        """
        strata = count * self.parts
        source = self._generator(purpose, "step")
        order = torch.randperm(strata, generator=source)
        inside = torch.rand(strata, generator=source, dtype=torch.float64)
        numbers = ((order + inside) / strata * out_of).long().clamp_(max=out_of - 1)
        return numbers[self.part * count : (self.part + 1) * count]

    def _generator(self, *purpose: object) -> torch.Generator:
        return generator(self.seed, self.stage, self.step, *purpose)
