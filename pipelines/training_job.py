"""The entry point of a training Job: trains, evaluates and registers the adapter of a spec.

python -m pipelines.training_job --spec '{"adapter": …}' --policy policy.yaml

Recipe, datasets and base come from MLflow. $ATELIER_HOME is a volume that outlives the pod, so the
next pod of the Job resumes from the checkpoint. The Job's podFailurePolicy uses the exit code:

- 0: a candidate was registered
- 1: the gates refused the version
- 2: bad input
- 3: a service was unavailable for longer than --patience
- 143: SIGTERM stopped the run, which can be resumed
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
from atelier.errors import BadInput, Interrupted, Refused
from atelier.failures import run_process
from atelier.home import Home
from atelier.logs import log_to
from atelier.platform.jobs import SPEC_TAG, TrainingSpec
from atelier.retry import patiently
from atelier.stores.artifacts import Artifacts
from atelier.stores.registry import Registry, VersionInfo
from pipelines.earlier import existing_result
from pipelines.evaluate import Evaluation, addressed, evaluation_under
from pipelines.run import check, judge
from pipelines.settings import JobSettings

logger = logging.getLogger("pipelines.training_job")

PATIENCE = 600.0  # seconds that MLflow may be unavailable before the pod fails

Answer = TypeVar("Answer")


def run(spec: TrainingSpec, policy: Policy, home: Home, *, patience: float = PATIENCE) -> int:
    """Train, evaluate and register the spec's candidate; return its version number.

    Skip the steps whose results the registry already contains. `patience` is in seconds. Raises
    Refused with the reasons if the verdict refuses the candidate.
    """

    def ask(question: Callable[[], Answer]) -> Answer:
        return patiently(question, seconds=patience, on_retry=logger.warning)

    version = ask(lambda: existing_version(spec, home))
    if version is not None:
        logger.info("%s exists already; it was made from the same inputs", version.label)
        evaluation = ask(lambda: existing_evaluation(policy, version, home))
        if evaluation is not None:
            require_accepted(evaluation, version)
            return version.version
    recipe = ask(lambda: fetch_inputs(spec, home))
    output = home.runs / spec.adapter / hex_of(spec.digest)[:12]
    ask(lambda: check(recipe, policy))
    if version is None:
        from pipelines.train.launch import train_in  # imports torch

        trained = train_in(spec.processes, recipe, policy, output=output, resume=True)
    else:
        trained = ask(lambda: existing_result(version, recipe, home))
    candidate, evaluation = judge(trained, recipe, policy, home, output=output, tags=spec.tags)
    require_accepted(evaluation, candidate)
    return candidate.version


def existing_version(spec: TrainingSpec, home: Home) -> VersionInfo | None:
    """Return the version that was trained from equal digests, if any."""
    return Registry(home.tracking_uri).made_from(spec.adapter, SPEC_TAG, spec.digest)


def existing_evaluation(policy: Policy, version: VersionInfo, home: Home) -> Evaluation | None:
    """Return the version's evaluation under exactly this policy, or None."""
    return evaluation_under(Registry(home.tracking_uri), version, policy.digest)


def require_accepted(judged: Evaluation, info: VersionInfo) -> None:
    """Raise Refused with the reasons unless the verdict accepts the version."""
    if not judged.accepted:
        why = "\n- ".join(addressed(judged.reasons, info.label))
        raise Refused(f"{info.label} is {judged.decision}:\n- {why}")


def fetch_inputs(spec: TrainingSpec, home: Home) -> Recipe:
    """Fetch and verify the recipe and all inputs that it names.

    Return the recipe with the local folders. Raises BadInput if the recipe does not match the spec.
    """
    artifacts, root = Artifacts(home.tracking_uri), home.root / "artifacts"

    def get(ref: ArtifactRef) -> Path:
        logger.info("%s", ref)
        return artifacts.get(ref, root / ref.kind / ref.key)

    folder = get(ArtifactRef.of("recipes", spec.recipe))
    file = folder / RECIPE_JSON
    recipe = Recipe.parse(file.read_bytes(), str(file))
    if (recipe.digest, recipe.adapter) != (spec.recipe, spec.adapter):
        raise BadInput(f"{file}: is not the recipe of the Job; submit the recipe again")
    if len(recipe.stages) != len(spec.datasets):
        raise BadInput(
            f"{file}: {len(recipe.stages)} stages, but {len(spec.datasets)} datasets; "
            "submit the recipe again"
        )
    places = Places(
        base=get(ArtifactRef.of("bases", spec.base)),
        vae=get(ArtifactRef.of("vaes", spec.vae)) if spec.vae else None,
        datasets=tuple(get(ArtifactRef.of("datasets", digest)) for digest in spec.datasets),
        look_alikes=get(ArtifactRef.of("datasets", spec.look_alikes)) if spec.look_alikes else None,
    )
    return recipe.model_copy(update={"folder": folder, "places": places})


def main(arguments: list[str] | None = None) -> int:
    """Run the Job; return the exit code (see atelier.errors)."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.training_job", description=__doc__)
    parser.add_argument("--spec", required=True, help="the digests of all inputs (JSON)")
    parser.add_argument("--policy", type=Path, required=True, help="the environment's policy.yaml")
    parser.add_argument(
        "--patience", type=float, default=PATIENCE, help="seconds that MLflow may be unavailable"
    )
    options = parser.parse_args(arguments)
    log_to(sys.stderr, format="%(message)s")
    # Process 1 of a container needs a handler, because SIGTERM has no default action for it.
    signal.signal(signal.SIGTERM, _stop)

    def work() -> None:
        home = Home(JobSettings.read().home)
        spec, policy = TrainingSpec.parse(options.spec), Policy.load(options.policy)
        version = run(spec, policy, home, patience=options.patience)
        print(f"{spec.adapter}@{version} is a candidate")

    return run_process(work)


def _stop(number: int, frame: FrameType | None) -> None:
    """Exit at once. Only training has state to save, and it has its own handler."""
    print("stopped; the next pod resumes from the files on the volume", file=sys.stderr, flush=True)
    os._exit(Interrupted.exit_code)  # sys.exit would wait for the threads of a download


if __name__ == "__main__":
    sys.exit(main())
