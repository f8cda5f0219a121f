"""Data-parallel training: each process computes its share of every batch.

`accelerate launch` starts the processes (see launch.py). They communicate over gloo on CPUs and
NCCL on GPUs. N processes with batch B take the same steps as one process with batch N x B: the
gradient is one flat tensor (see flat_parameters.py), averaged once a step. Every process runs the
same code. One process, the leader, writes files and reports.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# The other processes wait while the leader generates class pictures and validation pictures.
_LONGEST_WAIT = timedelta(hours=6)
PEER_SECONDS = 5.0  # between the end of another process and the failure of this one


@dataclass(frozen=True)
class Processes:
    """The rank of this process and the number of processes.

    By default there is one process, and every method returns at once.
    """

    rank: int = 0
    count: int = 1
    control: Any = None  # gloo process group for control messages; None for a single process

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def average(self, tensor: torch.Tensor) -> torch.Tensor:
        """Average a tensor over all processes, in place; the result is bit-identical in each."""
        if self.count > 1:
            dist.all_reduce(tensor)
            tensor.div_(self.count)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is True in at least one process."""
        if self.count == 1:
            return flag
        votes = torch.tensor([int(flag)])
        dist.all_reduce(votes, group=self.control)
        return bool(votes.item())

    def wait(self) -> None:
        """Wait until all processes have called this. Raises RuntimeError if one has ended."""
        if self.count == 1:
            return
        try:
            self.any(False)
        except RuntimeError:
            # The launcher reports the process that ends first: the one with the cause must be it.
            time.sleep(PEER_SECONDS)
            raise

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Run the block in the leader first, then in the other processes."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()


ALONE = Processes()


@contextmanager
def joined() -> Iterator[tuple[Processes, torch.device]]:
    """Join the process group; yield it and the device of this process."""
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
