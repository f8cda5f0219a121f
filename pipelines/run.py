"""The whole pipeline: trains a recipe, evaluates the result, registers it and promotes it.

`atelier run` calls `run`. Each line of `run` is a stage, which can also be called alone. The stages
pass folders, digests and registered versions to each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from atelier.adapter.signature_policy import SignaturePolicy
from atelier.data.policy import Policy
from atelier.data.recipe import Recipe
from atelier.errors import Refused
from atelier.home import Home
from atelier.stores.registry import Registry
from pipelines import train as training  # imports torch on first use
from pipelines.dataset import check_pictures
from pipelines.delivery.local.promotion import UNSIGNED, promote
from pipelines.delivery.local.reconciler import PromotionStatus
from pipelines.delivery.smoke import Smoke
from pipelines.evaluate import Evaluation, attest, checkpoint_judge, evaluate
from pipelines.train.progress import watcher
from pipelines.train.run_folder import RunFolder


def run(
    recipe: Recipe,
    policy: Policy,
    home: Home,
    *,
    signatures: SignaturePolicy = UNSIGNED,
    resume: bool = False,
    smoke: Smoke | None = None,
) -> PromotionStatus:
    """Train, evaluate, register and promote.

    Raises Refused with the reasons if the verdict refuses the adapter.
    """
    output = RunFolder.of(recipe, home).root
    check(recipe, policy)
    judging = checkpoint_judge(policy, recipe)
    trained = training.train(
        recipe, output=output, resume=resume, progress=watcher(), judge=judging
    )
    version = judge(trained, recipe, policy, home, output=output)
    return promote(
        recipe.adapter,
        version,
        registry=Registry(home.tracking_uri),
        home=home,
        policy=policy,
        signatures=signatures,
        smoke=smoke,
    )


def check(recipe: Recipe, policy: Policy) -> None:
    """Raise BadInput for gates, pictures or captions that training could not use."""
    policy.tightened(recipe.gates)  # raises PolicyError if the recipe loosens the policy
    check_pictures(recipe)


def judge(
    trained: training.TrainResult,
    recipe: Recipe,
    policy: Policy,
    home: Home,
    *,
    output: Path,
    tags: Mapping[str, str] | None = None,
) -> int:
    """Evaluate and register a training result; return its version.

    A refused version is registered, too. Raises Refused with the reasons if the verdict refuses it.
    """
    judged = evaluate(
        trained.package,
        policy,
        base=recipe.base_here.model,
        vae=recipe.base_here.vae,
        training_pictures=recipe,
        output=output / "evaluation",
        cache=home.root / "cache" / "pictures",
    )
    registry = Registry(home.tracking_uri)
    version = register(trained, judged, output / "evaluation", registry, tags)
    require_accepted(judged, version)
    return version


def require_accepted(judged: Evaluation, version: int) -> None:
    """Raise Refused with the reasons unless the verdict accepts the version."""
    if not judged.accepted:
        why = "\n- ".join(judged.reasons)
        raise Refused(f"{judged.adapter}@{version} is {judged.decision}:\n- {why}")


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
    version = registry.register(trained.package, run_id=trained.run_id, tags=tags)
    attest(registry, registry.version(judged.adapter, version), judged, folder)
    return version
