"""The whole pipeline on one page: a recipe and its pictures become an adapter that serves.

`atelier run` calls it. Each line of `run` is a stage of its own, which a Job can run alone. A
folder, its digest and the registry's record of it pass between the stages.
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
from pipelines import train as training  # which imports torch when it is used
from pipelines.dataset import check_pictures
from pipelines.delivery.local.promotion import UNSIGNED, promote
from pipelines.delivery.local.reconciler import PromotionStatus
from pipelines.delivery.smoke import Smoke
from pipelines.evaluate import Evaluation, attest, evaluate
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
    """Train, judge, register and promote; Refused with the reasons where the verdict says no."""
    output = RunFolder.of(recipe, home).root
    check(recipe, policy)
    trained = training.train(recipe, output=output, resume=resume, progress=watcher())
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
    """Say what is wrong before an hour is spent on it."""
    policy.tightened(recipe.gates)  # a recipe that asks for less than the operator ends here
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
    """Judge and register what was trained: its version, or Refused with the reasons."""
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
    """Refused, with the reasons, where the verdict says no."""
    if not judged.accepted:
        why = "\n- ".join(judged.reasons)
        raise Refused(f"{judged.adapter}@{version} is refused:\n- {why}")


def register(
    trained: training.TrainResult,
    judged: Evaluation,
    folder: Path,
    registry: Registry,
    tags: Mapping[str, str] | None = None,
) -> int:
    """The package as the adapter's newest version and candidate, with its verdict beside it."""
    version = registry.register(trained.package, run_id=trained.run_id, tags=tags)
    attest(registry, registry.version(judged.adapter, version), judged, folder)
    return version
