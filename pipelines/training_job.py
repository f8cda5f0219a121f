"""What a training Job's container runs: from digests to a judged candidate in the registry.

python -m pipelines.training_job --spec '{"adapter": …}' --policy policy.yaml

Recipe, dataset and base come from MLflow; $ATELIER_HOME is a volume that outlives the container, so
a Job whose pod was taken away goes on from its checkpoint. Exit codes, by which the Job's
podFailurePolicy decides: 0 a candidate, 1 refused by its gates, 2 bad input, 3 a service was away
for longer than --patience, 143 stopped by SIGTERM with what is needed to go on.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TypeVar

from atelier.data.names import ArtifactRef, hex_of
from atelier.data.policy import Policy
from atelier.data.recipe import RECIPE_JSON, Places, Recipe
from atelier.errors import BadInput, Interrupted
from atelier.failures import run_process
from atelier.home import Home
from atelier.logs import log_to
from atelier.platform.jobs import SPEC_TAG, TrainingSpec
from atelier.retry import patiently
from atelier.stores.artifacts import Artifacts
from atelier.stores.packages import fetched
from atelier.stores.registry import Registry, VersionInfo
from pipelines import train as training  # which imports torch when it is used
from pipelines.evaluate import Evaluation, evaluation_under
from pipelines.evaluate.references import HELD_BACK
from pipelines.run import check, judge, require_accepted
from pipelines.settings import JobSettings

logger = logging.getLogger("pipelines.training_job")

PATIENCE = 600.0  # seconds that MLflow may be away before the Job counts a failure

Answer = TypeVar("Answer")


def run(spec: TrainingSpec, policy: Policy, home: Home, *, patience: float = PATIENCE) -> int:
    """Make the spec's candidate and judge it, or only what is missing; the version's number.

    Refused, with the reasons, where the verdict says no.
    """

    def ask(question: Callable[[], Answer]) -> Answer:
        return patiently(question, seconds=patience, told=logger.warning)

    known = ask(lambda: made(spec, home))
    if known is not None:
        logger.info("%s@%d exists already, made from the same inputs", spec.adapter, known.version)
        judged = ask(lambda: judged_under(policy, known, home))
        if judged is not None:
            require_accepted(judged, known.version)
            return known.version
    recipe = ask(lambda: bring(spec, home))
    output = home.runs / spec.adapter / hex_of(spec.digest)[:12]
    check(recipe, policy)
    if known is None:
        from pipelines.train.launch import train_in  # imports torch

        trained = train_in(spec.processes, recipe, output=output, resume=True)
    else:
        trained = ask(lambda: made_into(known, recipe, home))
    return judge(trained, recipe, policy, home, output=output, tags={SPEC_TAG: spec.digest})


def made(spec: TrainingSpec, home: Home) -> VersionInfo | None:
    """The version that was made from equal digests, under whichever policy."""
    return Registry(home.tracking_uri).made_from(spec.adapter, SPEC_TAG, spec.digest)


def judged_under(policy: Policy, known: VersionInfo, home: Home) -> Evaluation | None:
    """The version's evaluation under this policy; None where only others judged it, or nobody."""
    return evaluation_under(Registry(home.tracking_uri), known, policy.digest)


def made_into(known: VersionInfo, recipe: Recipe, home: Home) -> training.TrainResult:
    """What the recipe's training made on whichever machine: the version, fetched and verified."""
    package = fetched(Registry(home.tracking_uri), home, known)
    return training.TrainResult(package, known.run_id, recipe.stages[0].train.steps, 0.0)


def bring(spec: TrainingSpec, home: Home) -> Recipe:
    """The recipe with everything it names, fetched and verified."""
    artifacts, here = Artifacts(home.tracking_uri), home.root / "artifacts"

    def get(ref: ArtifactRef) -> Path:
        logger.info("%s", ref)
        return artifacts.get(ref, here / ref.kind / ref.key)

    folder = get(ArtifactRef.of("recipes", spec.recipe))
    file = folder / RECIPE_JSON
    recipe = Recipe.parse(file.read_bytes(), str(file))
    if (recipe.digest, recipe.adapter) != (spec.recipe, spec.adapter):
        raise BadInput(f"{file}: is not the recipe that the Job asks for; submit it again")
    if len(recipe.stages) != len(spec.datasets):
        raise BadInput(f"{file}: {len(recipe.stages)} stages, but {len(spec.datasets)} datasets")
    if spec.held_back:
        folder = home.root / "held-back" / hex_of(spec.held_back)
        artifacts.get(ArtifactRef.of("datasets", spec.held_back), folder / HELD_BACK)
    places = Places(
        base=get(ArtifactRef.of("bases", spec.base)),
        vae=get(ArtifactRef.of("vaes", spec.vae)) if spec.vae else None,
        datasets=tuple(get(ArtifactRef.of("datasets", one)) for one in spec.datasets),
    )
    return recipe.model_copy(update={"folder": folder, "places": places})


def main(arguments: list[str] | None = None) -> int:
    """The exit code (see atelier.errors)."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.training_job", description=__doc__)
    parser.add_argument("--spec", required=True, help="what to train, by digests (JSON)")
    parser.add_argument("--policy", type=Path, required=True, help="the environment's policy.yaml")
    parser.add_argument(
        "--patience", type=float, default=PATIENCE, help="seconds that MLflow may be away"
    )
    options = parser.parse_args(arguments)
    log_to(sys.stderr, format="%(message)s")
    # With a word, and by an exit code whether or not this is its container's first process.
    signal.signal(signal.SIGTERM, _stop)

    def work() -> None:
        home = Home(JobSettings.read().home)
        spec, policy = TrainingSpec.parse(options.spec), Policy.load(options.policy)
        version = run(spec, policy, home, patience=options.patience)
        print(f"{spec.adapter}@{version} is a candidate")

    return run_process(work)


def _stop(number: int, frame: FrameType | None) -> None:
    """Nothing has to be written here; a training handles the signal itself."""
    print("stopped; the next pod goes on from what is on the volume", file=sys.stderr, flush=True)
    os._exit(Interrupted.exit_code)  # at once: a download's threads would be waited for


if __name__ == "__main__":
    sys.exit(main())
