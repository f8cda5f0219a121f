"""A candidate against the version that serves: the same prompts and seeds, picture by picture.

Two versions are drawn from the same noise, so a picture's number is compared with its partner's:
what one prompt or seed makes hard for both drops out of the difference. As in gates.py nothing here
makes or opens a picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from atelier.data.policy import Measure, Policy
from atelier.errors import Refused

from .evaluation import Evaluation, GateResult, Kind, Measured
from .gates import KINDS, MEASURES, interval, require_same_protocol, unmeasured

Word = Literal["better", "worse", "other", "no difference told apart"]


@dataclass(frozen=True)
class Difference:
    """One measure of both versions; `delta` and its 95 % interval are candidate less serving."""

    name: Measure
    candidate: float
    serving: float
    delta: float
    ci: tuple[float, float]
    pictures: tuple[str, ...]  # beside each evaluation.json, the candidate's lowest against its own

    @property
    def word(self) -> Word:
        """What the interval says; a measure that is good neither high nor low can only be other."""
        if self.ci[0] <= 0 <= self.ci[1]:
            return "no difference told apart"
        better = MEASURES[self.name].better
        if better == "neither":
            return "other"
        return "better" if (self.delta > 0) == (better == "higher") else "worse"


@dataclass(frozen=True)
class Comparison:
    """Both versions by every measure, and what the policy's `against_serving` makes of it."""

    differences: tuple[Difference, ...]
    gates: tuple[GateResult, ...]
    accepted: bool
    reasons: tuple[str, ...]
    remarks: tuple[str, ...]  # what else the two differ in, so not all is the training's doing


def compare(candidate: Evaluation, serving: Evaluation, policy: Policy) -> Comparison:
    """Hold the candidate's numbers against the serving version's.

    Raises Refused where one of them was not measured as the policy asks, or the two by other files
    of a scorer: such numbers cannot be compared.
    """
    for one in (candidate, serving):
        require_same_protocol(one, policy)
    if candidate.scorer_digests != serving.scorer_digests:
        raise Refused(
            f"{candidate.adapter}: the candidate was measured by other files of the scorers than "
            "what serves; evaluate what is older again under this policy"
        )
    ours, theirs = _by_picture(candidate), _by_picture(serving)
    if ours.keys() != theirs.keys():
        raise Refused(
            f"{candidate.adapter}: its pictures and those of what serves have other names; "
            "evaluate what is older again under this policy"
        )
    asked = {*policy.gates, *policy.against_serving}
    differences = tuple(
        _difference(name, ours, theirs, both)
        for name in MEASURES
        if name in asked and (both := _measured(name, ours, theirs))
    )
    gates = tuple(_limited(policy, {one.name: one for one in differences}))
    failed = tuple(_reason(gate, differences) for gate in gates if not gate.passed)
    return Comparison(differences, gates, not failed, failed, _remarks(candidate, serving))


def _by_picture(evaluation: Evaluation) -> Mapping[str, Measured]:
    """By the file, which names role, prompt's place and seed; the prompt's trigger may differ."""
    return {one.picture: one for one in evaluation.measures.pictures}


def _measured(
    name: Measure, ours: Mapping[str, Measured], theirs: Mapping[str, Measured]
) -> list[str]:
    """The pictures that both have this number of, in one order whatever the documents' is."""
    return sorted(
        file for file in ours if name in ours[file].values and name in theirs[file].values
    )


def _difference(
    name: Measure, ours: Mapping[str, Measured], theirs: Mapping[str, Measured], files: list[str]
) -> Difference:
    measure = MEASURES[name]
    a, b = (np.array([side[file].values[name] for file in files]) for side in (ours, theirs))
    return Difference(
        name=name,
        candidate=round(float(measure.over(a)), 6),
        serving=round(float(measure.over(b)), 6),
        delta=round(float(measure.over(a) - measure.over(b)), 6),
        ci=interval(
            len(files),
            lambda drawn: measure.over(a[drawn], axis=1) - measure.over(b[drawn], axis=1),
        ),
        pictures=tuple(files[index] for index in np.argsort(a - b, kind="stable")),
    )


def _limited(policy: Policy, found: Mapping[Measure, Difference]) -> list[GateResult]:
    """A gate for each limit of the policy. What could not be compared is a failed one."""
    return [
        _gate(found.get(name), name, kind, threshold)
        for name in MEASURES
        if (gate := policy.against_serving.get(name))
        for kind in KINDS
        if (threshold := getattr(gate, kind)) is not None
    ]


def _gate(one: Difference | None, name: Measure, kind: Kind, threshold: float) -> GateResult:
    low = kind.startswith("min")
    if one is None:
        return unmeasured(name, kind, threshold)
    return GateResult(
        name=name,
        kind=kind,
        value=one.delta,
        threshold=threshold,
        ci=one.ci,
        passed=one.delta >= threshold if low else one.delta <= threshold,
        pictures=one.pictures if low else one.pictures[::-1],
    )


def _reason(gate: GateResult, differences: tuple[Difference, ...]) -> str:
    measure = MEASURES[gate.name]
    one = next((one for one in differences if one.name == gate.name), None)
    if one is None:
        return f"{measure.title} could not be compared with the version that serves"
    low = gate.kind.startswith("min")
    side, why = ("lower", measure.low) if low else ("higher", measure.high)
    return (
        f"{measure.title} is {one.candidate:.3f}, {abs(one.delta):.3f} {side} than that of the "
        f"version that serves ({one.serving:.3f}), and {abs(gate.threshold):.3f} is allowed "
        f"(95 % interval of the difference {one.ci[0]:.3f} to {one.ci[1]:.3f}, "
        f"{len(one.pictures)} pairs): {why} (worst: {', '.join(gate.pictures[:2])})"
    )


def _remarks(candidate: Evaluation, serving: Evaluation) -> tuple[str, ...]:
    said: Mapping[str, tuple[object, object]] = {
        "drawn on another base or with another VAE": (
            (candidate.base, candidate.vae),
            (serving.base, serving.vae),
        ),
        "held against other reference pictures": (
            (candidate.measures.references.digest, candidate.measures.references.files),
            (serving.measures.references.digest, serving.measures.references.files),
        ),
        "drawn by another engine": (candidate.engine_digest, serving.engine_digest),
        "asked for by another trigger or class": (
            (candidate.trigger, candidate.noun),
            (serving.trigger, serving.noun),
        ),
    }
    return tuple(
        f"the candidate was {what} than what serves" for what, (a, b) in said.items() if a != b
    )
