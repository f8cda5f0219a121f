"""Gathers what a comparison needs beside the runs: their evaluations and the known scatter."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from atelier.adapter.package import Package
from atelier.data.names import hex_of
from atelier.data.policy import Measure, Policy
from atelier.data.recipe import Recipe
from atelier.errors import BadInput, Unavailable
from atelier.home import Home
from atelier.stores.registry import Registry
from pipelines.earlier import existing_registry
from pipelines.evaluate import FILE, Evaluation, evaluate
from pipelines.evaluate.companions import companion_packages
from pipelines.evaluate.references import RECIPES, recipe_of
from pipelines.evaluate.renderer import Progress

from .comparison import evaluation_of, registered_scatter
from .runs import RunRecord
from .scores import KnownScatter, merged
from .trainings import Scatter

LOCAL: Final = "sqlite:///"


def evaluated(
    runs: Sequence[RunRecord],
    policy: Policy,
    home: Home,
    folder: Path,
    *,
    base: str | None = None,
    progress: Progress | None = None,
) -> list[RunRecord]:
    """Return the finished runs with an evaluation under `policy`; evaluate those that have none.

    New evaluations are written below `folder` and used again by the next comparison. `base` is the
    location of the base, by default that of each run. Raises BadInput if no recipe in adapters/ or
    examples/ is that of a run without an evaluation.
    """
    found = []
    for run in runs:
        if run.adapter is None or evaluation_of(run, policy.digest) is not None:
            found.append(run)
            continue
        package = run.adapter.package
        place = (
            folder / "evaluations" / f"{hex_of(package.digest)[:12]}-{hex_of(policy.digest)[:12]}"
        )
        evaluation = _earlier(place) or evaluate(
            package,
            policy,
            base=base or package.manifest.base.id,
            training_pictures=_recipe(run.label, package),
            output=place,
            cache=home.root / "cache" / "pictures",
            progress=progress,
            companions=companion_packages(
                policy, package.manifest.name, existing_registry(home), home
            ),
        )
        found.append(replace(run, evaluations=(evaluation, *run.evaluations)))
    return found


def known_scatter(
    runs: Sequence[RunRecord],
    evaluations: Sequence[Evaluation],
    home: Home,
    file: Path | None,
) -> tuple[dict[Measure, Scatter], list[str]]:
    """Return the scatter from `file` and from repeats in the registry, and the sources in words.

    An unavailable registry has no repeats. Raises BadInput if the file is not of this policy.
    """
    known: list[Mapping[Measure, Scatter]] = []
    sources = []
    if file is not None:
        known.append(KnownScatter.load(file, evaluations[0].policy))
        sources.append(str(file))
    registered, count = _registered(runs, evaluations, home)
    if registered:
        known.append(registered)
        sources.append(f"{count} trainings of the same recipes in the registry")
    return merged(known), sources


def _registered(
    runs: Sequence[RunRecord], evaluations: Sequence[Evaluation], home: Home
) -> tuple[dict[Measure, Scatter], int]:
    """Return the scatter in the registry, and the number of its trainings; none if it is absent."""
    if not _exists(home.tracking_uri):
        return {}, 0
    try:
        return registered_scatter(Registry(home.tracking_uri), runs, evaluations)
    except Unavailable:
        return {}, 0


def _exists(tracking_uri: str) -> bool:
    """Return whether a local database exists; creating one only to find it empty takes long."""
    local = tracking_uri.removeprefix(LOCAL)
    return local == tracking_uri or Path(local).exists()


def _recipe(label: str, package: Package) -> Recipe:
    try:
        return recipe_of(package)
    except BadInput as error:
        raise BadInput(
            f"{label}: has no evaluation under the policy, and no recipe in "
            f"{' or '.join(map(str, RECIPES))} has the recipe digest of its manifest; evaluate it "
            "first with `atelier evaluate PACKAGE --policy FILE --recipe RECIPE`"
        ) from error


def _earlier(place: Path) -> Evaluation | None:
    return Evaluation.load(place) if (place / FILE).is_file() else None
