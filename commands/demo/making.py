"""Makes a version from its recipe: train, judge, register; each is a step of the clock."""

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
from pipelines.evaluate import Evaluation, evaluate
from pipelines.run import register
from pipelines.train import train
from pipelines.train.progress import watcher


@dataclass(frozen=True)
class MadeVersion:
    """A registered version."""

    recipe: Recipe
    package: Package
    evaluation: Evaluation
    version: int
    log: Path  # the journal of its training


@dataclass(frozen=True)
class Workshop:
    """Makes versions. The verdicts are written to `folder`."""

    folder: Path
    home: Home
    registry: Registry
    policy: Policy
    clock: Clock

    def make(self, recipe: Recipe, number: int) -> MadeVersion:
        """Train, judge and register a version. Refused if its verdict refuses it."""
        run = self.home.runs / recipe.adapter / f"version-{number}"
        with self.clock.step(f"train version {number}: {in_words(recipe)}") as step:
            check_pictures(recipe)
            result = train(recipe, output=run, progress=watcher())
            step.notes.append(f"package {short(result.package.digest)} in {result.package.path}")
        with self.clock.step(f"judge version {number}") as step:
            evaluation = self._judge(recipe, result.package, number, step)
        with self.clock.step(f"register version {number}") as step:
            version = register(result, evaluation, self._verdict(number), self.registry)
            step.notes.append(f"{recipe.adapter}@{version} is a candidate in the registry")
        return MadeVersion(recipe, result.package, evaluation, version, run / "log.jsonl")

    def _judge(self, recipe: Recipe, package: Package, number: int, step: TimedStep) -> Evaluation:
        with progress() as shown:
            evaluation = evaluate(
                package,
                self.policy,
                base=recipe.base.model,
                training_pictures=recipe,
                output=self._verdict(number),
                cache=self.home.root / "cache" / "pictures",
                progress=shown,
            )
        for gate in evaluation.gates:
            value = "not measured" if gate.value is None else f"{gate.value:.3f}"
            limit = f"{gate.kind.replace('_', ' ')} {gate.threshold:g}"
            result = "passed" if gate.passed else "FAILED"
            step.notes.append(f"{gate.name:10} {value:12} {limit:18} {result}")
        if not evaluation.accepted:
            reasons = "\n- ".join(evaluation.reasons)
            raise Refused(f"version {number} of {recipe.adapter} is refused:\n- {reasons}")
        return evaluation

    def _verdict(self, number: int) -> Path:
        return self.folder / f"evaluation-{number}"


def in_words(recipe: Recipe) -> str:
    """A recipe's training settings in one line."""
    stage = recipe.stages[0]
    words = [
        f"{stage.train.steps} steps",
        f"rank {stage.lora.rank} on {', '.join(stage.lora.targets)}",
        f"learning rate {stage.train.lr:g}",
    ]
    if stage.prior:
        words.append(f"{stage.prior.images} class pictures")
    return ", ".join(words)
