"""Train, evaluate and register a version, each as a step of the clock."""

from dataclasses import dataclass
from pathlib import Path

from atelier.adapter.package import Package
from atelier.data.policy import Policy
from atelier.data.recipe import Recipe
from atelier.errors import Refused
from atelier.home import Home
from atelier.stores.registry import Registry
from commands.demo.clock import Clock, TimedStep
from commands.terminal import progress, short
from pipelines.dataset import check_pictures
from pipelines.evaluate import Evaluation, checkpoint_judge, evaluate
from pipelines.run import register
from pipelines.train import train
from pipelines.train.progress import watcher


@dataclass(frozen=True)
class RegisteredVersion:
    """A registered version with its recipe, package and evaluation."""

    recipe: Recipe
    package: Package
    evaluation: Evaluation
    version: int
    log: Path  # `log.jsonl` of its training


@dataclass(frozen=True)
class VersionBuilder:
    """Train, evaluate and register versions. The evaluations are written to `folder`."""

    folder: Path
    home: Home
    registry: Registry
    policy: Policy
    clock: Clock

    def build(self, recipe: Recipe, number: int) -> RegisteredVersion:
        """Train, evaluate and register a version. Raises Refused if a gate refuses it."""
        run = self.home.runs / recipe.adapter / f"version-{number}"
        with self.clock.step(f"train version {number}: {training_summary(recipe)}") as step:
            check_pictures(recipe)
            judge = checkpoint_judge(self.policy, recipe)
            result = train(recipe, output=run, progress=watcher(), judge=judge)
            step.notes.append(f"package {short(result.package.digest)} in {result.package.path}")
        with self.clock.step(f"evaluate version {number}") as step:
            evaluation = self._evaluate(recipe, result.package, number, step)
        with self.clock.step(f"register version {number}") as step:
            version = register(result, evaluation, self._evaluation_folder(number), self.registry)
            step.notes.append(f"{recipe.adapter}@{version} is a candidate in the registry")
        return RegisteredVersion(recipe, result.package, evaluation, version, run / "log.jsonl")

    def _evaluate(
        self, recipe: Recipe, package: Package, number: int, step: TimedStep
    ) -> Evaluation:
        with progress() as report_progress:
            evaluation = evaluate(
                package,
                self.policy,
                base=recipe.base.model,
                training_pictures=recipe,
                output=self._evaluation_folder(number),
                cache=self.home.root / "cache" / "pictures",
                progress=report_progress,
                registry=self.registry,
            )
        for gate in evaluation.gates:
            step.notes.append(f"{gate.name:12} {gate.measured:12} {gate.limit:16} {gate.mark}")
        if not evaluation.accepted:
            reasons = "\n- ".join(evaluation.reasons)
            raise Refused(
                f"version {number} of {recipe.adapter} is {evaluation.decision}:\n- {reasons}"
            )
        return evaluation

    def _evaluation_folder(self, number: int) -> Path:
        return self.folder / f"evaluation-{number}"


def training_summary(recipe: Recipe) -> str:
    """Return the training settings of a recipe as one line."""
    stage = recipe.stages[0]
    settings = [
        f"{stage.train.steps} steps",
        f"rank {stage.lora.rank} on {', '.join(stage.lora.targets)}",
        f"learning rate {stage.train.lr:g}",
    ]
    if stage.prior:
        settings.append(f"{stage.prior.images} class pictures")
    return ", ".join(settings)
