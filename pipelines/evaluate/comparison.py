"""Compares a candidate with the serving version, picture by picture.

Both versions were rendered from the same noise with the same prompts. The comparison is therefore
paired: the difficulty of a prompt or seed affects both pictures and cancels in the difference. This
module opens no pictures.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from atelier.data.policy import Measure, Policy
from atelier.errors import Refused

from .attestations import stored
from .evaluation import NAMED, Evaluation, GateResult, Kind, Measured
from .gates import applies, require_same_protocol, unmeasured
from .intervals import mean_interval
from .measure_info import KINDS, MEASURES

LEVEL: Final = 0.95

Word = Literal["better", "worse", "other", "no difference told apart"]


@dataclass(frozen=True)
class Difference:
    """One measure of both versions. `delta` and its 95 % interval are candidate minus serving.

    A measure that is aggregated by its maximum has no interval.
    """

    name: Measure
    candidate: float
    serving: float
    delta: float
    ci: tuple[float, float] | None
    pictures: tuple[str, ...]  # paths relative to each evaluation.json, by ascending difference

    @property
    def interval(self) -> str:
        """The interval, for tables; empty if there is none."""
        return "" if self.ci is None else f"{self.ci[0]:+.3f} to {self.ci[1]:+.3f}"

    @property
    def word(self) -> Word:
        """The interpretation of the interval; `other` if neither direction is better."""
        if self.ci is None or self.ci[0] <= 0 <= self.ci[1]:
            return "no difference told apart"
        better = MEASURES[self.name].better
        if better == "neither":
            return "other"
        return "better" if (self.delta > 0) == (better == "higher") else "worse"


@dataclass(frozen=True)
class Comparison:
    """The differences in all measures, and the gates of the policy's `against_serving`."""

    differences: tuple[Difference, ...]
    gates: tuple[GateResult, ...]
    accepted: bool
    reasons: tuple[str, ...]
    remarks: tuple[str, ...]  # other differences between the two versions that affect the measures


def compare(candidate: Evaluation, serving: Evaluation, policy: Policy) -> Comparison:
    """Compare the measures of the candidate with those of the serving version.

    Raises Refused if one of the two was not evaluated as the policy requires, or if the files of a
    scorer differ between the two evaluations, because their values could not be compared.
    """
    for evaluation in (candidate, serving):
        require_same_protocol(evaluation, policy)
    if candidate.scorer_digests != serving.scorer_digests:
        raise Refused(
            f"{candidate.adapter}: candidate and serving version were measured with different "
            "files of a scorer; evaluate the older version again under this policy"
        )
    ours, theirs = _by_picture(candidate), _by_picture(serving)
    limited = {*policy.gates, *policy.against_serving}
    differences = tuple(
        _difference(name, ours, theirs, both)
        for name in MEASURES
        if name in limited and (both := _measured(name, ours, theirs))
    )
    gates = tuple(_gates(policy, candidate, {item.name: item for item in differences}))
    failed = tuple(_reason(gate, differences, candidate) for gate in gates if not gate.passed)
    return Comparison(differences, gates, not failed, failed, _remarks(candidate, serving))


def _by_picture(evaluation: Evaluation) -> Mapping[str, Measured]:
    """Return the pictures by path, which identifies prompt and seed even if the trigger differs."""
    return {measured.picture: measured for measured in evaluation.measures.pictures}


def _measured(
    name: Measure, ours: Mapping[str, Measured], theirs: Mapping[str, Measured]
) -> list[str]:
    """Return the sorted paths of the pictures for which both versions have this measure.

    One version may have more seeds than the other; the first seeds are the same.
    """
    return sorted(
        file
        for file in ours.keys() & theirs.keys()
        if name in ours[file].values and name in theirs[file].values
    )


def _difference(
    name: Measure, ours: Mapping[str, Measured], theirs: Mapping[str, Measured], files: list[str]
) -> Difference:
    a, b = (np.array([side[file].values[name] for file in files]) for side in (ours, theirs))
    prompts = np.array([ours[file].prompt for file in files])
    over = np.max if MEASURES[name].largest else np.mean
    ci = None
    if not MEASURES[name].largest:
        by_prompt = [(a - b)[prompts == prompt] for prompt in dict.fromkeys(prompts)]
        ci = mean_interval(by_prompt, LEVEL, rate=False)
    return Difference(
        name=name,
        candidate=round(float(over(a)), 6),
        serving=round(float(over(b)), 6),
        delta=round(float(over(a) - over(b)), 6),
        ci=None if ci is None else (round(ci[0], 6), round(ci[1], 6)),
        pictures=tuple(files[index] for index in np.argsort(a - b, kind="stable")),
    )


def _gates(
    policy: Policy, candidate: Evaluation, differences: Mapping[Measure, Difference]
) -> list[GateResult]:
    """Return the result of every limit that applies. A limit without a difference fails."""
    return [
        _gate(differences.get(name), name, kind, threshold)
        for name in MEASURES
        if applies(name, candidate) and (gate := policy.against_serving.get(name))
        for kind in KINDS
        if (threshold := getattr(gate, kind)) is not None
    ]


def _gate(difference: Difference | None, name: Measure, kind: Kind, threshold: float) -> GateResult:
    low = kind.startswith("min")
    if difference is None:
        return unmeasured(name, kind, threshold)
    holds = difference.delta >= threshold if low else difference.delta <= threshold
    return GateResult(
        name=name,
        kind=kind,
        value=difference.delta,
        threshold=threshold,
        ci=difference.ci,
        state="passed" if holds else "failed",
        pictures=difference.pictures if low else difference.pictures[::-1],
    )


def _reason(gate: GateResult, differences: tuple[Difference, ...], candidate: Evaluation) -> str:
    measure = MEASURES[gate.name]
    difference = next((item for item in differences if item.name == gate.name), None)
    if difference is None:
        return (
            f"{measure.title} could not be compared with the serving version; evaluate both "
            "versions again"
        )
    side = "lower" if gate.kind.startswith("min") else "higher"
    ci = difference.ci
    known = {picture.picture for picture in stored(candidate)}  # a reader can fetch these
    worst = [picture for picture in gate.pictures if picture in known][:NAMED]
    interval = f"95 % interval of the difference {ci[0]:.3f} to {ci[1]:.3f}, " if ci else ""
    return (
        f"{measure.title} is {difference.candidate:.3f}, {abs(difference.delta):.3f} {side} than "
        f"for the serving version ({difference.serving:.3f}); {abs(gate.threshold):.3f} is "
        f"allowed ({interval}{len(difference.pictures)} pairs; "
        f"worst of the stored pictures: {', '.join(worst)})"
    )


def _remarks(candidate: Evaluation, serving: Evaluation) -> tuple[str, ...]:
    settings: Mapping[str, tuple[object, object]] = {
        "rendered with another base or VAE": (
            (candidate.base, candidate.vae),
            (serving.base, serving.vae),
        ),
        "compared with other reference pictures": (
            (candidate.measures.references.digest, candidate.measures.references.files),
            (serving.measures.references.digest, serving.measures.references.files),
        ),
        "rendered by another engine": (candidate.engine_digest, serving.engine_digest),
        "prompted with another trigger or class": (
            (candidate.trigger, candidate.noun),
            (serving.trigger, serving.noun),
        ),
    }
    return tuple(
        f"the candidate was {what} than the serving version"
        for what, (a, b) in settings.items()
        if a != b
    )
