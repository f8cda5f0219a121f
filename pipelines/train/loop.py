"""The training loop, independent of the method: batches, gradients and updates."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from atelier.data.recipe import TrainSpec
from atelier.errors import Refused
from pipelines.train.draws import Draws
from pipelines.train.methods import Method
from pipelines.train.optimiser import Optimiser
from pipelines.train.processes import ALONE, Processes

# Updates between two reads of the losses, by device type; a read waits for the GPU.
READ_EVERY = {"cuda": 20, "cpu": 1}


@dataclass(frozen=True)
class StepReport:
    """The measurements of update number `step`.

    `rate` is the learning rate, `norm` the gradient norm before clipping, `seconds` the wall time.
    """

    step: int
    loss: float
    rate: float
    norm: float
    seconds: float
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Unread:
    """An update whose measurements may still be on the device."""

    step: int
    loss: torch.Tensor
    norm: torch.Tensor
    parts: dict[str, torch.Tensor]
    rate: float


class Loop:
    """The training loop of one stage."""

    def __init__(
        self,
        method: Method,
        optimiser: Optimiser,
        spec: TrainSpec,
        stage: int = 0,
        processes: Processes = ALONE,
    ) -> None:
        self.method, self.optimiser, self.spec, self.stage = method, optimiser, spec, stage
        self.processes = processes
        self._read_every = READ_EVERY[optimiser.parameters.values.device.type]
        self._unread: list[_Unread] = []
        self._last_read = time.perf_counter()

    def run(
        self, start: int, report: Callable[[StepReport], None], after: Callable[[int], bool]
    ) -> int:
        """Run updates until the last one, or until `after(step)` returns True.

        Start after `start` updates, report each update, and return the number of updates done.
        """
        self._last_read = time.perf_counter()
        for step in range(start, self.spec.steps):
            self._unread.append(self._update(step))
            if len(self._unread) >= self._read_every or step + 1 == self.spec.steps:
                self.report_unread(report)
            paused = time.perf_counter()
            stop = after(step + 1)
            self._last_read += time.perf_counter() - paused
            if stop:
                return step + 1
        return self.spec.steps

    def report_unread(self, report: Callable[[StepReport], None]) -> None:
        """Read and report the updates since the last read.

        Raises Refused at the first loss that is not finite.
        """
        if not self._unread:
            return
        rows = [torch.stack([u.loss, u.norm, *u.parts.values()]) for u in self._unread]
        values = [row.tolist() for row in rows]
        now = time.perf_counter()
        seconds = (now - self._last_read) / len(rows)
        unread, self._unread, self._last_read = self._unread, [], now
        for update, (loss, norm, *parts) in zip(unread, values, strict=True):
            if not math.isfinite(loss):
                raise self._not_finite(update.step, loss)
            named = dict(zip(update.parts, parts, strict=True))
            report(StepReport(update.step, loss, update.rate, norm, seconds, named))

    def _update(self, step: int) -> _Unread:
        parts, processes = self.spec.accumulate, self.processes
        losses = []
        for part in range(parts):
            position = (step, part, parts, processes.rank, processes.count)
            loss = self.method.loss(Draws(self.spec.seed, self.stage, *position))
            self.optimiser.backward(loss.total / parts)
            losses.append(loss)
        processes.average(self.optimiser.parameters.gradient)
        rate = self.optimiser.rate
        norm = self.optimiser.update()
        total = torch.stack([loss.total.detach() for loss in losses]).mean()
        loss_parts = {
            name: torch.stack([loss.parts[name] for loss in losses]).mean()
            for name in losses[0].parts
        }
        if processes.count > 1:
            total, *means = processes.average(torch.stack([total, *loss_parts.values()]))
            loss_parts = dict(zip(loss_parts, means, strict=True))
        return _Unread(step + 1, total, norm, loss_parts, rate)

    def _not_finite(self, step: int, loss: float) -> Refused:
        spec = self.spec
        if spec.precision == "fp16":
            cause = "fp16 overflows easily; use bf16 or fp32, and a VAE made for fp16 (base.vae)"
        else:
            cause = f"the learning rate {spec.lr:g} is likely too high: try {spec.lr / 5:g}"
            if spec.warmup == 0:
                cause += ", or add `warmup`"
        return Refused(
            f"step {step}: the loss is {loss}; {cause}. Earlier checkpoints are undamaged, but a "
            "changed recipe starts a new run"
        )
