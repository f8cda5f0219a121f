"""Runs one training: checks, preparation, updates, package and report."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from atelier.adapter.package import Package
from atelier.data.recipe import Recipe, Stage
from atelier.errors import BadInput, Interrupted, Unavailable
from atelier.home import Home
from pipelines.dataset import PictureFolder, Split, hold_back, open_folder
from pipelines.train import packaging
from pipelines.train.checkpoint import Checkpoint, Checkpoints, RunIdentity, disk_full
from pipelines.train.choosing import Curve, Judge, best, scores_in
from pipelines.train.determinism import repeatable
from pipelines.train.judging import Judging, Unjudged
from pipelines.train.loop import Loop, StepReport
from pipelines.train.methods import METHODS, Method
from pipelines.train.optimiser import Optimiser
from pipelines.train.preparation import load, only_stage, require_judge
from pipelines.train.prior import ClassPictures, class_pictures
from pipelines.train.processes import Processes, joined
from pipelines.train.progress import Silence, Watcher
from pipelines.train.run_folder import RunFolder, commit_of
from pipelines.train.samples import StageInputs
from pipelines.train.stopping import Stopping
from pipelines.train.tracking.tracker import NullTracker, RunTracker, Tracker, flat, run_id_of
from pipelines.train.validation import generate_samples
from services.engine import Engine, EngineSettings
from services.engine.base import Base


@dataclass(frozen=True)
class TrainResult:
    """The result of a training: a package with the weights after `steps` updates.

    `run_id` is the id of the MLflow run, or None without MLflow. `seconds` is the duration of the
    call.
    """

    package: Package
    run_id: str | None
    steps: int
    seconds: float


def train(
    recipe: Recipe,
    *,
    output: Path,
    resume: bool = False,
    tracker: Tracker | None = None,
    progress: Watcher | None = None,
    until: int | None = None,
    judge: Judge | None = None,
) -> TrainResult:
    """Train `recipe` in the run folder `output`; the package is written to `output/package`.

    `judge` scores the checkpoints if the recipe has `checkpoint.judge`; the best one is packaged.
    If several processes were started together (see processes.py), each calls this with the same
    arguments.

    Raises BadInput if the recipe cannot be trained or needs a judge, Refused if the loss is not
    finite, Interrupted (after writing a checkpoint) on SIGTERM or after step `until`, and
    Unavailable if the disk is full or a tracking server is unreachable. In the last case the
    package is complete.
    """
    started = time.monotonic()
    stage = only_stage(recipe)
    require_judge(recipe, judge)
    whole = open_folder(recipe.dataset_folder(stage), stage.dataset.captions)
    pictures = hold_back(whole, stage.dataset.hold_back)
    folder = RunFolder(output.absolute())
    with (
        joined() as (processes, device),
        folder.claimed() if processes.leads else nullcontext(),
        repeatable(device),
        Stopping() as stopping,
    ):
        base = load(recipe, stage, device)
        digests = recipe.digest, base.digest, whole.digest
        identity = RunIdentity(*digests, processes=processes.count, vae=base.vae_digest)
        with processes.leader_first():
            if processes.leads:
                folder.begin(recipe, identity, resume=resume)
        tracker, watcher = _reporters(recipe, folder, tracker, progress, processes)
        job = _Job(
            recipe,
            stage,
            base,
            pictures,
            folder,
            identity,
            tracker,
            watcher,
            stopping,
            processes,
            judge,
        )
        try:
            with job.tracked():
                package = folder.finished() or job.train(until)
                job.conclude(package)
        except OSError as error:
            full = disk_full(error, folder.root)
            if full is None:
                raise
            raise full from error
    steps = _steps_of(folder, stage)
    return TrainResult(package, tracker.run_id, steps, time.monotonic() - started)


def trained_in(output: Path) -> TrainResult:
    """Return the result of a completed training from its run folder.

    `seconds` is 0. Raises BadInput if the folder contains no completed training.
    """
    folder = RunFolder(output.absolute())
    package = folder.finished()
    if package is None:
        raise BadInput(f"{output}: contains no completed training; train into it first")
    recipe = Recipe.model_validate(json.loads(folder.about.read_text())["recipe"])
    steps = _steps_of(folder, only_stage(recipe))
    return TrainResult(package, run_id_of(folder.root), steps, 0.0)


@dataclass
class _Job:
    """The state of one training."""

    recipe: Recipe
    stage: Stage
    base: Base
    pictures: Split
    folder: RunFolder
    identity: RunIdentity
    tracker: Tracker
    watcher: Watcher
    stopping: Stopping
    processes: Processes
    judge: Judge | None

    @cached_property
    def engine(self) -> Engine:
        """The engine that generates class, validation and judged pictures, created on first use."""
        settings = EngineSettings(
            slots=2, max_rank=self.stage.lora.rank, max_batch=16, device=str(self.base.device)
        )
        return Engine(self.base, settings)

    @contextmanager
    def tracked(self) -> Iterator[None]:
        """Report the start of the training to the tracker, and its end in every case."""
        params = flat(self.recipe.model_dump(mode="json", exclude={"stages", "folder"}))
        params |= flat(self.stage.model_dump(mode="json"))
        self.tracker.begin(params, self._lineage())
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, Interrupted | KeyboardInterrupt)
            try:
                self.tracker.end("stopped" if stopped else "failed")
            except (Unavailable, OSError) as failure:  # must not replace the original error
                self.watcher.note(str(failure))
            raise
        finally:
            self.watcher.end()
        self.tracker.end("finished")

    def train(self, until: int | None) -> Package:
        """Run the remaining updates and write the package of the best or the last state.

        Raises Interrupted if a stop was requested, or after step `until`.
        """
        spec = self.stage.train
        material = StageInputs(
            self.base, self.recipe, self.stage, self.pictures.training, self._class_pictures()
        )
        method = METHODS[self.stage.method](material)
        for remark in method.remarks:
            self.watcher.note(remark)
        optimiser = Optimiser(method.trainable(), spec)
        checkpoints = Checkpoints(
            self.folder.checkpoints, self.identity, self.recipe.checkpoint.keep
        )
        with self.processes.leader_first():  # the leader removes unfinished checkpoints
            start = self._restored(checkpoints, optimiser)
        loop = Loop(method, optimiser, spec, processes=self.processes)
        judging = self._judging(method)

        def after(step: int) -> bool:
            stop = self.processes.any(self.stopping.requested) or step == until
            validate = self._validates_at(step) and not stop
            save = stop or judging.due(step) or step % self.recipe.checkpoint.every == 0
            if validate or save:
                loop.report_unread(self._report)  # raises before a non-finite state is used
            if validate and self.processes.leads:
                self._validate(method, step)
            if save and self.processes.leads:
                snapshot = _snapshot(optimiser, step, step * spec.accumulate)
                checkpoints.save(snapshot, best=judging.best(step))
            return stop or judging.after(step)

        self.watcher.begin(start, spec.steps)
        complete = judging.begin(start)
        done = start if complete else loop.run(start, self._report, after)
        if not judging.complete(done):
            raise Interrupted(
                f"stopped after step {done} of {spec.steps}; resume with `--resume --output "
                f"{self.folder.root}`"
            )
        package = None
        if self.processes.leads:
            chosen = judging.best(done) or done
            weights = method.trainable() if chosen == done else checkpoints.weights(chosen)
            package = self._package(weights, self.folder.package)
        self.processes.wait()
        return package or Package.open(self.folder.package)

    def conclude(self, package: Package) -> None:
        """Report the result. Repeating this has no effect."""
        tags = {"atelier.digest": package.digest, "atelier.adapter": self.recipe.adapter}
        tags["atelier.step"] = str(_steps_of(self.folder, self.stage))
        if scores := scores_in(self.folder.curve):
            why = f"step {tags['atelier.step']} is the best of {len(scores)} judged checkpoints"
            tags["atelier.choice"] = f"{why}: {scores[int(tags['atelier.step'])]}"
            self.watcher.note(tags["atelier.choice"])
        self.tracker.package(package.path, tags)
        self.watcher.note(f"{package.path}: {package.digest}")

    def _class_pictures(self) -> PictureFolder | None:
        prior = self.stage.prior
        if prior is None:
            return None
        wanted = ClassPictures(
            base=self.base.digest,
            vae=self.base.vae_digest,
            precision=str(self.base.dtype).removeprefix("torch."),
            prompt=self.recipe.fill(prior.prompt),
            count=prior.images,
            size=self.stage.dataset.resolution,
            seed=self.stage.train.seed,
        )

        with self.processes.leader_first():
            return class_pictures(
                wanted,
                Home.find().root / "cache" / "class-pictures",
                lambda: self.engine,
                report=lambda done, total: self.watcher.note(f"class pictures: {done} of {total}"),
                check=lambda: self.stopping.check("generating class pictures"),
            )

    def _restored(self, checkpoints: Checkpoints, optimiser: Optimiser) -> int:
        """Restore the newest checkpoint; return its number of updates, or 0 if there is none."""
        checkpoint = checkpoints.latest()
        if checkpoint is None:
            return 0
        optimiser.parameters.load(checkpoint.weights)
        optimiser.restore(checkpoint.optimiser)
        threads = torch.get_num_threads()
        if checkpoint.threads != threads:
            self.watcher.note(
                f"resumed with {threads} threads instead of {checkpoint.threads}: the last bits of "
                "the weights may differ from those of an uninterrupted run"
            )
        return checkpoint.step

    def _validates_at(self, step: int) -> bool:
        validation = self.recipe.validation
        if validation is None:
            return False
        return step % validation.every == 0 or step == self.stage.train.steps

    def _validate(self, method: Method, step: int) -> None:
        adapter, folder = method.adapter(), self.folder.samples
        samples = generate_samples(self.engine, self.recipe, adapter, step, folder)
        for sample in samples:
            self.tracker.picture(step, sample.index, sample.prompt, sample.path)

    def _report(self, report: StepReport) -> None:
        values = {"loss": report.loss, "lr": report.rate, "grad_norm": report.norm}
        values |= {f"loss_{name}": value for name, value in report.parts.items()}
        self.tracker.metrics(report.step, values | {"seconds_per_step": report.seconds})
        self.watcher.update(report)

    def _judging(self, method: Method) -> Judging | Unjudged:
        spec, steps = self.recipe.checkpoint.judge, self.stage.train.steps
        if spec is None or self.judge is None:
            return Unjudged(steps)
        return Judging(
            spec,
            steps,
            self.judge,
            Curve(self.folder.curve, self.judge.digest),
            self.folder,
            lambda folder: self._package(method.trainable(), folder),
            lambda: self.engine,
            self.stopping,
            self.processes,
            self.tracker,
            self.watcher,
        )

    def _package(self, weights: Mapping[str, torch.Tensor], folder: Path) -> Package:
        held_back = self.pictures.held_back_digests
        return packaging.write(folder, weights, self.recipe, self.stage, self.identity, held_back)

    def _lineage(self) -> dict[str, str]:
        commit = commit_of(self.recipe.folder)
        return {
            "atelier.recipe": self.recipe.digest,
            "atelier.base": self.base.digest,
            "atelier.dataset": self.pictures.whole.digest,
            "atelier.output": str(self.folder.root),
        } | ({"atelier.git_commit": commit} if commit else {})


def _reporters(
    recipe: Recipe,
    folder: RunFolder,
    tracker: Tracker | None,
    progress: Watcher | None,
    processes: Processes,
) -> tuple[Tracker, Watcher]:
    """Return the tracker and watcher of this process; only the leader reports."""
    if not processes.leads:
        return NullTracker(), Silence()
    run_tracker = tracker or RunTracker(folder.root, recipe.tracking, recipe.adapter, Home.find())
    return run_tracker, progress or Silence()


def _steps_of(folder: RunFolder, stage: Stage) -> int:
    """Return the number of updates of the package of a completed run."""
    return best(scores_in(folder.curve)) or stage.train.steps


def _snapshot(optimiser: Optimiser, step: int, position: int) -> Checkpoint:
    weights = {name: tensor.cpu() for name, tensor in optimiser.parameters.named().items()}
    return Checkpoint(step, position, weights, optimiser.state(), torch.get_num_threads())
