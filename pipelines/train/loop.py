"""The training loop: batches to gradients to updates, knowing nothing of what is trained."""

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

# Updates between two looks at the losses, by device; each look at a GPU's waits for the GPU.
LOOKS = {"cuda": 20, "cpu": 1}


@dataclass(frozen=True)
class StepReport:
    """What one update was like. `seconds` is its wall time."""

    step: int
    loss: float
    rate: float
    norm: float
    seconds: float
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Unread:
    """An update whose numbers may still lie on the device."""

    step: int
    loss: torch.Tensor
    norm: torch.Tensor
    parts: dict[str, torch.Tensor]
    rate: float


class Loop:
    """One stage from update `start` on; `after` is called with each update's number."""

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
        self._watch = LOOKS[optimiser.parameters.values.device.type]
        self._unread: list[_Unread] = []
        self._looked = time.perf_counter()

    def run(
        self, start: int, report: Callable[[StepReport], None], after: Callable[[int], bool]
    ) -> int:
        """Updates until the last, or until `after` says stop; returns how many are done."""
        self._looked = time.perf_counter()
        for step in range(start, self.spec.steps):
            self._unread.append(self._update(step))
            if len(self._unread) >= self._watch or step + 1 == self.spec.steps:
                self.look(report)
            paused = time.perf_counter()
            stop = after(step + 1)
            self._looked += time.perf_counter() - paused
            if stop:
                return step + 1
        return self.spec.steps

    def look(self, report: Callable[[StepReport], None]) -> None:
        """Reads the losses since the last look; Refused at the first that is not finite."""
        if not self._unread:
            return
        rows = [torch.stack([u.loss, u.norm, *u.parts.values()]) for u in self._unread]
        values = [row.tolist() for row in rows]
        now = time.perf_counter()
        each = (now - self._looked) / len(rows)
        unread, self._unread, self._looked = self._unread, [], now
        for update, (loss, norm, *parts) in zip(unread, values, strict=True):
            if not math.isfinite(loss):
                raise self._not_finite(update.step, loss)
            named = dict(zip(update.parts, parts, strict=True))
            report(StepReport(update.step, loss, update.rate, norm, each, named))

    def _update(self, step: int) -> _Unread:
        parts, all_of_us = self.spec.accumulate, self.processes
        losses = []
        for part in range(parts):
            place = (step, part, parts, all_of_us.rank, all_of_us.count)
            loss = self.method.loss(Draws(self.spec.seed, self.stage, *place))
            self.optimiser.backward(loss.total / parts)
            losses.append(loss)
        all_of_us.average(self.optimiser.parameters.gradient)
        rate = self.optimiser.rate
        norm = self.optimiser.update()
        total = torch.stack([loss.total.detach() for loss in losses]).mean()
        watched = {
            name: torch.stack([loss.parts[name] for loss in losses]).mean()
            for name in losses[0].parts
        }
        if all_of_us.count > 1:
            total, *means = all_of_us.average(torch.stack([total, *watched.values()]))
            watched = dict(zip(watched, means, strict=True))
        return _Unread(step + 1, total, norm, watched, rate)

    def _not_finite(self, step: int, loss: float) -> Refused:
        spec = self.spec
        if spec.precision == "fp16":
            cause = "fp16 overflows easily: use bf16 or fp32, and a VAE made for it (base.vae)"
        else:
            cause = f"the learning rate {spec.lr:g} is likely too high: try {spec.lr / 5:g}"
            if spec.warmup == 0:
                cause += ", or add `warmup`"
        return Refused(
            f"step {step}: the loss is {loss}; {cause}. Checkpoints before it are whole, but a "
            "changed recipe starts anew"
        )
