"""Trains one model in several processes with one thread each.

Processes synchronise once a step, but the threads of one process synchronise after every operation.
On a busy machine, two processes with one thread each are therefore much faster than one process
with two threads. On a GPU there is one process.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn


@dataclass(frozen=True)
class Team:
    """The rank of this process, and the number of processes."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process saves files and prints."""
        return self.rank == 0

    def generator(self, seed: int, step: int) -> torch.Generator:
        """Return a generator seeded by step and rank, so that a resumed run repeats its numbers."""
        return torch.Generator().manual_seed((seed * 1_000_003 + step) * 64 + self.rank)

    def average_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace the gradients in every process by their mean over all processes."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        pieces = flat.split([gradient.numel() for gradient in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))


def run_team(work: Callable[..., None], size: int, *arguments: Any) -> None:
    """Run `work(team, *arguments)` in `size` processes; in this process if `size` is 1."""
    if size == 1:
        work(Team(), *arguments)
        return
    with TemporaryDirectory() as folder:
        spawn(_member, (size, Path(folder) / "store", work, arguments), nprocs=size)


def _member(
    rank: int, size: int, store: Path, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // size))
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=size)
    try:
        work(Team(rank, size), *arguments)
    finally:
        dist.destroy_process_group()
