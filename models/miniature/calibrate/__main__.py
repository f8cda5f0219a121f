"""Make the labelled adapters of the calibration: `python -m models.miniature.calibrate`.

Each adapter is finished when its `label.json` exists, so an interrupted run continues.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from atelier.adapter.package import Package
from atelier.data.policy import Policy
from atelier.data.recipe import Recipe
from models.miniature.build.oracle import load_oracle
from pipelines.evaluate import evaluate
from pipelines.evaluate.calibration.labelled import LABEL
from pipelines.train import train
from services.engine import Engine, EngineSettings

from .kinds import KINDS, Kind
from .labels import label, rates
from .recipes import kind_recipe
from .scaled import relabelled
from .subjects import Subject, subjects

BASE = Path("models/miniature")


@dataclass(frozen=True)
class Calibration:
    """The folder of the adapters, and the engine and policy that evaluate them."""

    work: Path
    policy: Policy
    engine: Engine

    def folder(self, subject: Subject, kind: str) -> Path:
        """Return the folder of an adapter."""
        return self.work / subject.name / kind.replace(" ", "-")

    def recipe(self, subject: Subject, kind: Kind) -> Recipe:
        """Return the recipe of an adapter; its pictures are in the adapter's folder."""
        folder = self.folder(subject, kind.name)
        return kind_recipe(subject, kind, folder, adapter="calibration")

    def package(self, subject: Subject, kind: Kind, others: Sequence[Subject]) -> Package:
        """Return the adapter, trained or made from a good one."""
        folder, recipe = self.folder(subject, kind.name), self.recipe(subject, kind)
        if kind.changes is not None:
            return train(recipe, output=folder / "run", resume=True).package
        good = KINDS["good"]
        same_kind = [other for other in others if other.kind == subject.kind]
        source = same_kind[0] if kind.other else subject
        trained = self.package(source, good, others)
        dataset = self.package(subject, good, others).manifest.dataset
        return relabelled(
            trained, folder / "package", dataset, kind.scale if kind.scale is not None else 1.0
        )

    def finish(self, subject: Subject, kind: Kind, others: Sequence[Subject]) -> str:
        """Make, evaluate and label one adapter; return its label."""
        folder = self.folder(subject, kind.name)
        package = self.package(subject, kind, others)
        evaluation = evaluate(
            package,
            self.policy,
            base=BASE,
            training_pictures=self.recipe(subject, kind),
            output=folder,
            engine=self.engine,
            cache=self.work / "base-pictures",
            all_seeds=True,
        )
        found = rates(evaluation, folder, subject.character, load_oracle(BASE / "oracle"))
        said = label(found, subject, kind)
        (folder / LABEL).write_text(said.model_dump_json(indent=1) + "\n")
        return f"{said.label}: {said.why}; {evaluation.decision}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the adapters of all kinds for each subject."""
    chosen = _parser().parse_args(arguments)
    os.environ["ATELIER_HOME"] = str(chosen.work.resolve() / "home")
    settings = EngineSettings.read()
    made = Calibration(chosen.work, Policy.load(), Engine.load(BASE, settings=settings))
    everyone = subjects(chosen.subjects)
    tasks = list(_tasks(made, everyone, chosen.kinds))
    for number, (subject, kind) in enumerate(tasks, 1):
        started = time.monotonic()
        others = [other for other in everyone if other != subject]
        said = made.finish(subject, kind, others)
        seconds = time.monotonic() - started
        print(f"{number}/{len(tasks)} {subject.name} {kind.name}: {said} ({seconds:.0f} s)")


def _tasks(
    made: Calibration, everyone: Sequence[Subject], kinds: Sequence[str]
) -> Iterator[tuple[Subject, Kind]]:
    """Yield the adapters that have no label."""
    for subject in everyone:
        for name in kinds:
            if not (made.folder(subject, name) / LABEL).exists():
                yield subject, KINDS[name]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="models.miniature.calibrate", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/calibration"))
    parser.add_argument("--subjects", type=int, default=12)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    return parser


if __name__ == "__main__":
    main()
