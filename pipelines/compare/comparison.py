"""Compares runs: recipes, curves, pictures and scores, with the scatter between trainings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from atelier.data.names import Digest
from atelier.data.policy import Measure
from atelier.stores.registry import Registry
from pipelines.evaluate import MEASURES, Evaluation, evaluation_under

from .conclusion import Conclusion, Rival, conclusion, repeats_only
from .curves import Chart, charts
from .parameters import ParameterRow, RunGroup, grouped, parameter_rows
from .runs import RunRecord, version_record
from .scores import PairedScores, merged
from .side_by_side import PictureSheet
from .trainings import Scatter

MOST: Final = 100  # newest versions in which repeats of a recipe are looked for


@dataclass(frozen=True)
class Scores:
    """The scores of all runs under one policy.

    `rivals` are compared with the first recipe, `each` run with the first run. `scatter` is the
    scatter between trainings by measure, and `sources` says where it comes from.
    """

    policy: Digest
    evaluations: tuple[Evaluation, ...]
    rivals: tuple[Rival, ...]
    each: tuple[Rival, ...]
    scatter: Mapping[Measure, Scatter]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class RunComparison:
    """All that the page shows."""

    runs: tuple[RunRecord, ...]
    groups: tuple[RunGroup, ...]
    parameters: tuple[ParameterRow, ...]
    charts: tuple[Chart, ...]
    sheet: PictureSheet | None
    scores: Scores | None
    conclusion: Conclusion
    remarks: tuple[str, ...]


def compare_runs(
    runs: Sequence[RunRecord],
    *,
    sheet: PictureSheet | None,
    evaluations: Sequence[Evaluation] | None,
    known: Mapping[Measure, Scatter],
    sources: Sequence[str] = (),
) -> RunComparison:
    """Compare two or more runs.

    `evaluations` has one of each run under one policy; without them there are no scores. `known` is
    scatter between trainings beside that of these runs, and `sources` says where it comes from.
    """
    groups = grouped(runs)
    scores = _scores(runs, groups, evaluations, known, sources) if evaluations else None
    return RunComparison(
        runs=tuple(runs),
        groups=tuple(groups),
        parameters=tuple(parameter_rows(runs)),
        charts=tuple(charts(runs)),
        sheet=sheet,
        scores=scores,
        conclusion=_conclusion(groups, scores),
        remarks=(*_unfinished(runs), *(_remarks(evaluations) if evaluations else ())),
    )


def common_evaluations(
    runs: Sequence[RunRecord], policy: Digest | None = None
) -> list[Evaluation] | None:
    """Return an evaluation of each run, all under one policy and by the same scorer files.

    The default policy is the newest that all runs have in common. None if there is none.
    """
    for candidate in runs[0].evaluations:
        found = [evaluation_of(run, candidate.policy) for run in runs]
        complete = [each for each in found if each is not None]
        scorers = {tuple(sorted(each.scorer_digests.items())) for each in complete}
        wanted = policy in (None, candidate.policy)
        if wanted and len(complete) == len(runs) and len(scorers) == 1:
            return complete
    return None


def evaluation_of(run: RunRecord, policy: Digest) -> Evaluation | None:
    """Return the evaluation of a run under a policy, or None."""
    return next((each for each in run.evaluations if each.policy == policy), None)


def registered_scatter(
    registry: Registry, runs: Sequence[RunRecord], evaluations: Sequence[Evaluation]
) -> tuple[dict[Measure, Scatter], int]:
    """Return the scatter of trainings in the registry, and their number.

    They are repeats of the runs' recipes, with other seeds, evaluated under the same policy. The
    runs themselves are not counted again, except for a run that is the only other training.
    """
    found, count = [], 0
    recipes: list[Mapping[str, str]] = []
    for group in grouped(runs):
        recipe = runs[group.runs[0]].recipe
        if recipe is None or recipe in recipes:
            continue
        recipes.append(recipe)
        own = [evaluations[index] for index in group.runs]
        others = _registered_repeats(registry, recipe, runs, own[0])
        repeats = others if len(own) > 1 else [*own, *others]
        if len(repeats) > 1:
            members = RunGroup(group.label, tuple(range(len(repeats))))
            found.append(PairedScores.of(repeats).scatter([members]))
            count += len(repeats)
    return merged(found), count


def _registered_repeats(
    registry: Registry, recipe: Mapping[str, str], runs: Sequence[RunRecord], like: Evaluation
) -> list[Evaluation]:
    """Return the evaluations of registered trainings of a recipe that are not among `runs`."""
    if like.adapter not in registry.adapters():
        return []
    seeds = {run.seed for run in runs if run.recipe == recipe}
    found = []
    for info in reversed(registry.versions(like.adapter)[-MOST:]):
        record = version_record(registry, info)
        if record.recipe != recipe or record.seed in seeds:
            continue
        evaluation = evaluation_under(registry, info, like.policy)
        if evaluation is not None and evaluation.scorer_digests == like.scorer_digests:
            seeds.add(record.seed)
            found.append(evaluation)
    return found


def _scores(
    runs: Sequence[RunRecord],
    groups: Sequence[RunGroup],
    evaluations: Sequence[Evaluation],
    known: Mapping[Measure, Scatter],
    sources: Sequence[str],
) -> Scores:
    paired = PairedScores.of(evaluations)
    own = paired.scatter(groups)
    scatter = merged([own, known])
    first = groups[0].runs
    alone = [RunGroup(run.label, (index,)) for index, run in enumerate(runs)]

    def rival(group: RunGroup, against: Sequence[int], counted: Mapping[Measure, Scatter]) -> Rival:
        return Rival(group, tuple(paired.differences(against, group.runs, counted)))

    here = [f"{sum(len(g.runs) for g in groups if len(g.runs) > 1)} of these runs"] if own else []
    return Scores(
        policy=evaluations[0].policy,
        evaluations=tuple(evaluations),
        rivals=tuple(rival(group, first, scatter) for group in groups[1:]),
        each=tuple(rival(group, (0,), {}) for group in alone[1:]),
        scatter=scatter,
        sources=(*here, *sources),
    )


def _conclusion(groups: Sequence[RunGroup], scores: Scores | None) -> Conclusion:
    if len(groups) == 1:
        known = scores.scatter if scores else {}
        directed = {n: s for n, s in known.items() if MEASURES[n].better != "neither"}
        return repeats_only(groups[0], {MEASURES[n].title: s.sd for n, s in directed.items()})
    if scores is None:
        return Conclusion(
            "The runs cannot be ranked, because they have no evaluations under one policy with the "
            "same scorer files",
            "`--policy FILE` evaluates those that have none under this policy",
        )
    return conclusion(groups[0], scores.rivals)


def _unfinished(runs: Sequence[RunRecord]) -> list[str]:
    return [
        f"{run.label} has not finished, so there are no scores and no pictures of it"
        for run in runs
        if run.adapter is None
    ]


def _remarks(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the differences between the evaluations that affect the scores."""
    differs: Mapping[str, Callable[[Evaluation], object]] = {
        "were rendered with different bases or VAEs": lambda e: (e.base, e.vae),
        "were compared with different reference pictures": lambda e: (
            e.measures.references.digest,
            e.measures.references.files,
        ),
        "were rendered by different engines": lambda e: e.engine_digest,
        "were prompted with different triggers or classes": lambda e: (e.trigger, e.noun),
    }
    return [
        f"the pictures of the runs {what}, which also affects the scores"
        for what, of in differs.items()
        if len({of(each) for each in evaluations}) > 1
    ]
