"""Judges the checkpoints of a run while it trains, and decides when it ends and which one is best.

A checkpoint is scored after it was saved. A run that is stopped before the score is stored computes
it when it is resumed, so an interrupted run has the scores of an uninterrupted one.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from atelier.adapter.package import Package
from atelier.data.recipe import JudgeSpec
from atelier.files import staging
from pipelines.train.choosing import Curve, Judge, best, turned
from pipelines.train.processes import Processes
from pipelines.train.progress import Watcher
from pipelines.train.run_folder import RunFolder
from pipelines.train.stopping import Stopping
from pipelines.train.tracking.tracker import Tracker
from services.engine import Engine


@dataclass(frozen=True)
class Unjudged:
    """A run of `steps` updates that is not judged: the last state is the adapter."""

    steps: int

    def begin(self, start: int) -> bool:
        """Return False: the loop decides whether updates remain."""
        return False

    def due(self, step: int) -> bool:
        """Return False: no state is scored."""
        return False

    def after(self, step: int) -> bool:
        """Return False: the loop ends after the last update."""
        return False

    def complete(self, step: int) -> bool:
        """Return whether `step` is the last one."""
        return step == self.steps

    def best(self, step: int) -> int | None:
        """Return None: there are no scores."""
        return None


@dataclass(frozen=True)
class Judging:
    """The judging of a run of `steps` updates. Every process calls the same methods.

    `package` writes the current state as a package to a folder.
    """

    spec: JudgeSpec
    steps: int
    judge: Judge
    curve: Curve
    folder: RunFolder
    package: Callable[[Path], Package]
    engine: Callable[[], Engine]
    stopping: Stopping
    processes: Processes
    tracker: Tracker
    watcher: Watcher

    def begin(self, start: int) -> bool:
        """Continue after `start` updates; return whether the run is complete.

        The earlier process may have stopped before it scored its last checkpoint, or before it
        reported the score.
        """
        if self.curve.foreign and self.processes.leads:
            self.watcher.note("the policy has changed; scores under the earlier one are ignored")
        for step, score in sorted(self.curve.until(start).items()):
            self.tracker.metrics(step, score.metrics)
        return self.after(start)

    def due(self, step: int) -> bool:
        """Return whether the state after `step` updates is scored."""
        return step > 0 and (step % self.spec.every == 0 or step == self.steps)

    def after(self, step: int) -> bool:
        """Score the current state if it is due; return whether the run is complete.

        Raises Interrupted if a stop is requested while it is scored.
        """
        if not self.due(step):
            return False
        with self.processes.leader_first():
            if self.processes.leads and step not in self.curve.until(step):
                self._score(step)
        return self.complete(step)

    def complete(self, step: int) -> bool:
        """Return whether a run that ended after `step` updates is complete.

        It is if `step` is the last one, or if the scores do not improve. A run that was stopped
        before it scored this state is not complete.
        """
        scores = self.curve.until(step)
        at_end = step == self.steps or turned(scores, self.spec.patience)
        return self.processes.any(self.processes.leads and step in scores and at_end)

    def best(self, step: int) -> int | None:
        """Return the step of the best score up to `step`; None without scores."""
        return best(self.curve.until(step))

    def _score(self, step: int) -> None:
        started = time.monotonic()
        # The name is that of an unfinished checkpoint, so that a resumed run removes the folder.
        with staging(self.folder.checkpoints / f"step-{step:08d}") as aside:
            package = self.package(aside / "package")
            score = self.judge.score(
                package, self.engine(), lambda: self.stopping.check(f"judging step {step}")
            )
        self.curve.add(step, score)
        seconds = time.monotonic() - started
        self.tracker.metrics(step, {**score.metrics, "judge/seconds": seconds})
        self.watcher.note(f"step {step}: {score}, judged in {seconds:.1f} s")
