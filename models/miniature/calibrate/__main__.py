"""Make the labelled adapters of the calibration: `python -m models.miniature.calibrate`.

Each adapter is finished when its `label.json` exists, so an interrupted run continues.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

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

    def recipe(self, subject: Subject, kind: Kind) -> Recipe:
        """Return the recipe of an adapter; its pictures are in the adapter's folder."""
        folder = folder_of(self.work, subject, kind.name)
        return kind_recipe(subject, kind, folder, adapter="calibration")

    def package(self, subject: Subject, kind: Kind, others: Sequence[Subject]) -> Package:
        """Return the adapter, trained or made from a good one."""
        folder, recipe = folder_of(self.work, subject, kind.name), self.recipe(subject, kind)
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
        folder = folder_of(self.work, subject, kind.name)
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


@dataclass(frozen=True)
class Settings:
    """The arguments of a worker."""

    work: Path
    subjects: int


Task = tuple[int, str]  # the number of the subject, and the kind
_worker: list[Calibration] = []  # of this process


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the adapters of all kinds for each subject, the good ones first: others need them."""
    chosen = _parser().parse_args(arguments)
    os.environ["ATELIER_HOME"] = str(chosen.work.resolve() / "home")
    settings = Settings(chosen.work, chosen.subjects)
    for kinds in ({"good"} & {*chosen.kinds}, {*chosen.kinds} - {"good"}):
        tasks = list(_tasks(settings, [kind for kind in KINDS if kind in kinds]))
        started = time.monotonic()
        with ProcessPoolExecutor(
            chosen.workers, get_context("spawn"), initializer=_start, initargs=(settings,)
        ) as pool:
            for number, said in enumerate(pool.map(partial(_finish, settings), tasks), 1):
                minutes = (time.monotonic() - started) / 60
                print(f"{number}/{len(tasks)} after {minutes:.0f} min: {said}", flush=True)


def _start(settings: Settings) -> None:
    """Load the engine of a worker process, which computes with one thread."""
    torch.set_num_threads(1)
    engine = Engine.load(BASE, settings=EngineSettings.read())
    _worker.append(Calibration(settings.work, Policy.load(), engine))


def _finish(settings: Settings, task: Task) -> str:
    everyone, kind = subjects(settings.subjects), KINDS[task[1]]
    subject = everyone[task[0]]
    others = [other for other in everyone if other != subject]
    (made,) = _worker
    return f"{subject.name} {kind.name}: {made.finish(subject, kind, others)}"


def _tasks(settings: Settings, kinds: Sequence[str]) -> Iterator[Task]:
    """Yield the adapters that have no label."""
    for number, subject in enumerate(subjects(settings.subjects)):
        for kind in kinds:
            if not (folder_of(settings.work, subject, kind) / LABEL).exists():
                yield number, kind


def folder_of(work: Path, subject: Subject, kind: str) -> Path:
    """Return the folder of an adapter."""
    return work / subject.name / kind.replace(" ", "-")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="models.miniature.calibrate", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/calibration"))
    parser.add_argument("--subjects", type=int, default=12)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    return parser


if __name__ == "__main__":
    main()
