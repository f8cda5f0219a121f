"""The whole pipeline: trains a recipe, evaluates the result and registers it as a candidate.

`atelier run` calls `run`. Each line of `run` is a stage, which can also be called alone. The stages
pass folders, digests and registered versions to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from atelier.data.policy import Policy
from atelier.data.recipe import Recipe
from atelier.home import Home
from atelier.stores.registry import Registry, VersionInfo
from pipelines import earlier
from pipelines import train as training  # imports torch on first use
from pipelines.dataset import check_pictures
from pipelines.evaluate import (
    Evaluation,
    attest,
    checkpoint_judge,
    download,
    download_folder,
    evaluate,
    evaluation_under,
)
from pipelines.evaluate.companions import companion_packages
from pipelines.evaluate.renderer import Progress
from pipelines.evaluate.scorers.files import find_scorers
from pipelines.train.progress import watcher
from pipelines.train.run_folder import RunFolder

# Shows the progress of an evaluation while the context is open; None shows nothing.
Showing = Callable[[], AbstractContextManager[Progress | None]]


@dataclass(frozen=True)
class RunResult:
    """A registered version with its verdict.

    `folder` contains the files of the evaluation, `training` those of the training if it ran on
    this machine. `trained` is False for the result of an earlier training.
    """

    version: VersionInfo
    evaluation: Evaluation
    folder: Path
    training: RunFolder | None
    trained: bool


def run(
    recipe: Recipe,
    policy: Policy,
    home: Home,
    *,
    resume: bool = False,
    again: bool = False,
    showing: Showing = nullcontext,
) -> RunResult:
    """Train, evaluate and register a candidate.

    An earlier training with the same inputs is not repeated, except with `again`. It is evaluated
    if it has no verdict under this policy.
    """
    check(recipe, policy)
    registry = earlier.existing_registry(home)
    found = earlier.find(recipe, home, registry, resume=resume, again=again)
    if found.version is not None:
        folder = earlier.evaluation_folder(found, home)
        judged, folder = rejudge(found.version, recipe, policy, home, folder, showing)
        return RunResult(found.version, judged, folder, found.run, trained=False)
    output = found.folder.root  # a finished run is only completed, for example its tracking
    trained = training.train(
        recipe,
        output=output,
        resume=resume or found.finished,
        progress=watcher(),
        judge=checkpoint_judge(policy, recipe),
    )
    folder = output / "evaluation"
    version, judged = judge(trained, recipe, policy, home, output=output, showing=showing)
    return RunResult(version, judged, folder, found.folder, trained=not found.finished)


def check(recipe: Recipe, policy: Policy) -> None:
    """Raise BadInput for gates, pictures, captions or scorers that could not be used.

    The scorers are fetched. Raises Unavailable if MLflow or the hub cannot be reached.
    """
    policy.tightened(recipe.gates)  # raises PolicyError if the recipe loosens the policy
    check_pictures(recipe)
    find_scorers(policy.scorers.model_dump())


def judge(
    trained: training.TrainResult,
    recipe: Recipe,
    policy: Policy,
    home: Home,
    *,
    output: Path,
    tags: Mapping[str, str] | None = None,
    showing: Showing = nullcontext,
) -> tuple[VersionInfo, Evaluation]:
    """Evaluate and register a training result, whatever the verdict. `output` is a run folder."""
    folder = output / "evaluation"
    registry = Registry(home.tracking_uri)
    judged = _evaluate(trained, recipe, policy, home, folder, showing, registry)
    version = register(trained, judged, folder, registry, tags)
    return registry.version(judged.adapter, version), judged


def rejudge(
    info: VersionInfo, recipe: Recipe, policy: Policy, home: Home, folder: Path, showing: Showing
) -> tuple[Evaluation, Path]:
    """Return the evaluation of a registered version under a policy, and the folder of its files.

    If there is none, the version is evaluated into `folder`.
    """
    registry = Registry(home.tracking_uri)
    judged = evaluation_under(registry, info, policy.digest)
    if judged is None:
        trained = earlier.existing_result(info, recipe, home)
        judged = _evaluate(trained, recipe, policy, home, folder, showing, registry)
        attest(registry, info, judged, folder)
    elif not judged.is_in(folder):
        folder = download_folder(home, judged)
        download(registry, info, judged, folder)
    return judged, folder


def _evaluate(
    trained: training.TrainResult,
    recipe: Recipe,
    policy: Policy,
    home: Home,
    folder: Path,
    showing: Showing,
    registry: Registry,
) -> Evaluation:
    with showing() as progress:
        return evaluate(
            trained.package,
            policy,
            base=recipe.base_here.model,
            vae=recipe.base_here.vae,
            training_pictures=recipe,
            output=folder,
            cache=home.root / "cache" / "pictures",
            progress=progress,
            registry=registry,
            companions=companion_packages(policy, recipe.adapter, registry, home),
        )


def register(
    trained: training.TrainResult,
    judged: Evaluation,
    folder: Path,
    registry: Registry,
    tags: Mapping[str, str] | None = None,
) -> int:
    """Register the package as a new version, the candidate, with its evaluation.

    `folder` contains the files of the evaluation. Returns the version number.
    """
    vae = {"atelier.vae": judged.vae} if judged.vae else {}  # the manifest does not name it
    version = registry.register(
        trained.package, run_id=trained.run_id, tags={**vae, **(tags or {})}
    )
    attest(registry, registry.version(judged.adapter, version), judged, folder)
    return version
