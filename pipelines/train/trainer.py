"""One training from beginning to end: check, prepare, train, pack, tell."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from atelier.adapter.package import Package, write_package
from atelier.data.manifest import BaseRef
from atelier.data.recipe import Recipe, Stage
from atelier.errors import BadInput, Interrupted, RecipeError, Unavailable
from atelier.home import Home
from pipelines.dataset import PictureFolder, open_folder
from pipelines.train.checkpoint import Checkpoint, Checkpoints, RunIdentity, disk_full
from pipelines.train.determinism import repeatable
from pipelines.train.loop import Loop, StepReport
from pipelines.train.methods import METHODS, Method
from pipelines.train.optimiser import DTYPES, Optimiser, check_optimizer, check_precision
from pipelines.train.prior import ClassPictures, class_pictures
from pipelines.train.processes import Processes, joined
from pipelines.train.progress import Silence, Watcher
from pipelines.train.run_folder import RunFolder, commit_of
from pipelines.train.samples import StageInputs
from pipelines.train.stopping import Stopping
from pipelines.train.tracking.tracker import RunTracker, Tracker, UndeliveredEvents, run_id_of
from pipelines.train.validation import draw
from services.engine import Engine, EngineSettings
from services.engine.base import Base, load_base


@dataclass(frozen=True)
class TrainResult:
    """`run_id` is MLflow's, None where it is not told; `seconds` are of this call."""

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
) -> TrainResult:
    """Trains `recipe` into the run folder `output`; the package lies in `output/package`.

    Where several processes were started together (see processes.py), each calls this alike.

    Raises BadInput for what cannot be trained, Refused where the loss is no number, Interrupted
    (with a checkpoint) on SIGTERM or after step `until`, and Unavailable where the disk is full or
    a tracking server could not be told: then the package is whole all the same.
    """
    started = time.monotonic()
    stage = _only_stage(recipe)
    pictures = open_folder(recipe.dataset_folder(stage), stage.dataset.captions)
    folder = RunFolder(output.absolute())
    with (
        joined() as (processes, device),
        folder.claimed() if processes.leads else nullcontext(),
        repeatable(device),
        Stopping() as stopping,
    ):
        base = _load(recipe, stage, device)
        identity = RunIdentity(
            recipe.digest, base.digest, pictures.digest, processes=processes.count
        )
        with processes.leader_first():
            if processes.leads:
                folder.begin(recipe, identity, resume=resume)
        told, shown = _tellers(recipe, folder, tracker, progress, processes)
        job = _Job(
            recipe, stage, base, pictures, folder, identity, told, shown, stopping, processes
        )
        try:
            with job.telling():
                package = folder.finished() or job.train(until)
                job.conclude(package)
        except OSError as error:
            full = disk_full(error, folder.root)
            if full is None:
                raise
            raise full from error
    return TrainResult(package, told.run_id, stage.train.steps, time.monotonic() - started)


def trained_in(output: Path) -> TrainResult:
    """What a training that has ended left in its run folder; BadInput where none has."""
    folder = RunFolder(output.absolute())
    package = folder.finished()
    if package is None:
        raise BadInput(f"{output}: no training has ended here")
    recipe = Recipe.model_validate(json.loads(folder.about.read_text())["recipe"])
    return TrainResult(package, run_id_of(folder.root), _only_stage(recipe).train.steps, 0.0)


@dataclass
class _Job:
    """What one training holds on to."""

    recipe: Recipe
    stage: Stage
    base: Base
    pictures: PictureFolder
    folder: RunFolder
    identity: RunIdentity
    tracker: Tracker
    watcher: Watcher
    stopping: Stopping
    processes: Processes

    @cached_property
    def engine(self) -> Engine:
        """Draws class and validation pictures; made when the first is wanted."""
        settings = EngineSettings(
            slots=2, max_rank=self.stage.lora.rank, max_batch=16, device=str(self.base.device)
        )
        return Engine(self.base, settings)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """The tracker learns how it ended, whatever happens."""
        params = _flat(self.recipe.model_dump(mode="json", exclude={"stages", "folder"}))
        params |= _flat(self.stage.model_dump(mode="json"))
        self.tracker.begin(params, self._lineage())
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, Interrupted | KeyboardInterrupt)
            try:
                self.tracker.end("stopped" if stopped else "failed")
            except (Unavailable, OSError) as away:  # the reason for ending comes first
                self.watcher.note(str(away))
            raise
        finally:
            self.watcher.end()
        self.tracker.end("finished")

    def train(self, until: int | None) -> Package:
        """All updates that are left, then the package."""
        spec = self.stage.train
        material = StageInputs(
            self.base, self.recipe, self.stage, self.pictures, self._class_pictures()
        )
        method = METHODS[self.stage.method](material)
        for remark in method.remarks:
            self.watcher.note(remark)
        optimiser = Optimiser(method.trainable(), spec)
        kept = Checkpoints(self.folder.checkpoints, self.identity, self.recipe.checkpoint.keep)
        with self.processes.leader_first():  # who clears away what a killed run left behind
            start = self._restored(kept, optimiser)
        loop = Loop(method, optimiser, spec, processes=self.processes)

        def after(step: int) -> bool:
            stop = self.processes.any(self.stopping.asked) or step == until
            draws = self._draws_at(step) and not stop
            keeps = stop or step % self.recipe.checkpoint.every == 0
            if draws or keeps:
                loop.look(self._report)  # a loss that is no number is neither drawn nor kept
            if draws and self.processes.leads:
                self._draw(method, step)
            if keeps and self.processes.leads:
                kept.save(_snapshot(optimiser, step, step * spec.accumulate))
            return stop

        self.watcher.begin(start, spec.steps)
        done = loop.run(start, self._report, after)
        if done < spec.steps:
            raise Interrupted(
                f"stopped after step {done} of {spec.steps}; `--resume --output "
                f"{self.folder.root}` goes on from there"
            )
        package = self._pack(method) if self.processes.leads else None
        self.processes.wait()
        return package or Package.open(self.folder.package)

    def conclude(self, package: Package) -> None:
        """The result is told; harmless where it was told before."""
        self.tracker.package(
            package.path, {"atelier.digest": package.digest, "atelier.adapter": self.recipe.adapter}
        )
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
                told=lambda done, of: self.watcher.note(f"class pictures: {done} of {of}"),
                check=lambda: self.stopping.check("class pictures were drawn"),
            )

    def _restored(self, kept: Checkpoints, optimiser: Optimiser) -> int:
        """The number of updates that a checkpoint brought back; 0 without one."""
        found = kept.latest()
        if found is None:
            return 0
        optimiser.parameters.load(found.weights)
        optimiser.restore(found.optimiser)
        threads = torch.get_num_threads()
        if found.threads != threads:
            self.watcher.note(
                f"going on with {threads} threads instead of {found.threads}: the last bits may "
                "differ from an unbroken run"
            )
        return found.step

    def _draws_at(self, step: int) -> bool:
        validation = self.recipe.validation
        if validation is None:
            return False
        return step % validation.every == 0 or step == self.stage.train.steps

    def _draw(self, method: Method, step: int) -> None:
        samples = draw(self.engine, self.recipe, method.adapter(), step, self.folder.samples)
        for sample in samples:
            self.tracker.picture(step, sample.index, sample.prompt, sample.path)

    def _report(self, report: StepReport) -> None:
        values = {"loss": report.loss, "lr": report.rate, "grad_norm": report.norm}
        values |= {f"loss_{name}": value for name, value in report.parts.items()}
        self.tracker.metrics(report.step, values | {"seconds_per_step": report.seconds})
        self.watcher.update(report)

    def _pack(self, method: Method) -> Package:
        return write_package(
            self.folder.package,
            {name: tensor.detach().cpu().numpy() for name, tensor in method.trainable().items()},
            name=self.recipe.adapter,
            base=BaseRef(id=self.base.id, digest=self.base.digest),
            alpha=self.stage.lora.alpha,
            targets=self.stage.lora.targets,
            trigger=self.recipe.trigger,
            class_prompt=self.stage.prior.prompt if self.stage.prior else None,
            styles=self.recipe.styles,
            dataset=self.pictures.digest,
            recipe=self.recipe.digest,
            git_commit=commit_of(self.recipe.folder),
        )

    def _lineage(self) -> dict[str, str]:
        commit = commit_of(self.recipe.folder)
        return {
            "atelier.recipe": self.recipe.digest,
            "atelier.base": self.base.digest,
            "atelier.dataset": self.pictures.digest,
            "atelier.output": str(self.folder.root),
        } | ({"atelier.git_commit": commit} if commit else {})


def _load(recipe: Recipe, stage: Stage, device: torch.device) -> Base:
    """The base, called as the recipe calls it, wherever it was brought from."""
    check_precision(stage.train.precision, device)
    check_optimizer(stage.train.optimizer, device)
    named = recipe.base_here
    base = load_base(
        named.model,
        revision=named.revision,
        vae=named.vae,
        device=device,
        dtype=DTYPES[stage.train.precision],
    )
    return replace(base, id=recipe.base.model)


def _tellers(
    recipe: Recipe,
    folder: RunFolder,
    tracker: Tracker | None,
    progress: Watcher | None,
    processes: Processes,
) -> tuple[Tracker, Watcher]:
    """Who is told: of several processes, only the leader speaks."""
    if not processes.leads:
        return UndeliveredEvents(), Silence()
    own = tracker or RunTracker(folder.root, recipe.tracking, recipe.adapter, Home.find())
    return own, progress or Silence()


def _only_stage(recipe: Recipe) -> Stage:
    """The stage to train; RecipeError for what is not built yet."""
    if len(recipe.stages) > 1:
        raise RecipeError(
            f"{recipe.adapter}: {len(recipe.stages)} stages; one is what can be trained so far: "
            "keep stages.0 and train the rest as recipes of their own"
        )
    stage = recipe.stages[0]
    if stage.method not in METHODS:
        raise RecipeError(
            f"{recipe.adapter}: stages.0.method {stage.method} is not built yet; built: "
            f"{', '.join(METHODS)}"
        )
    return stage


def _snapshot(optimiser: Optimiser, step: int, position: int) -> Checkpoint:
    weights = {name: tensor.cpu() for name, tensor in optimiser.parameters.named().items()}
    return Checkpoint(step, position, weights, optimiser.state(), torch.get_num_threads())


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as `train.lr` and so on, without what is not set."""
    if not isinstance(value, dict):
        return {} if value is None else {prefix: value}
    return {
        key: one
        for name, inner in value.items()
        for key, one in _flat(inner, f"{prefix}.{name}" if prefix else name).items()
    }
