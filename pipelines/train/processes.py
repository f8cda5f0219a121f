"""Several processes that train as one: each takes its share of every batch, one of them leads.

`accelerate launch` starts them (see launch.py); here they find one another, over gloo on CPUs and
NCCL on GPUs. N processes of batch B take the steps that one process of batch N x B would take: the
gradient is one long tensor (see flat.py), averaged once a step. All else happens in all of them
alike; only the leader writes and tells.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# The others wait while the leader draws class pictures and validation pictures.
_LONGEST_WAIT = timedelta(hours=6)


@dataclass(frozen=True)
class Processes:
    """This process among all of them; alone by default, and then nothing here does anything."""

    rank: int = 0
    count: int = 1
    control: Any = None  # the group that agrees on what to do, on CPUs

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes and tells."""
        return self.rank == 0

    def average(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean over all processes, in place; each gets the same bits."""
        if self.count > 1:
            dist.all_reduce(tensor)
            tensor.div_(self.count)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether it is so in one of them at least."""
        if self.count == 1:
            return flag
        votes = torch.tensor([int(flag)])
        dist.all_reduce(votes, group=self.control)
        return bool(votes.item())

    def wait(self) -> None:
        """Until all are here; fails where one of them has ended."""
        if self.count > 1:
            self.any(False)

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """The leader does it while the others wait, then they."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()


ALONE = Processes()


@contextmanager
def joined() -> Iterator[tuple[Processes, torch.device]]:
    """The processes that were started together, and the device of this one."""
    on_gpu = torch.cuda.is_available()
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE, torch.device("cuda" if on_gpu else "cpu")
        return
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_LONGEST_WAIT)
    try:
        control = dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)
        yield Processes(dist.get_rank(), count, control), device
    finally:
        dist.destroy_process_group()
