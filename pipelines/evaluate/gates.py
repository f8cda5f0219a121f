"""Computes the verdict: every gate of a policy, from the measures of single pictures.

This module opens no pictures. A promotion can therefore recompute a verdict in milliseconds, under
its own policy, from `evaluation.json` alone.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from atelier.data.policy import Gate, Measure, Policy
from atelier.errors import PolicyError, Refused

from .evaluation import Evaluation, GateResult, Kind, Measured, Measures
from .prompt_set import Role, prompt_set

RESAMPLES: Final = 2000
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


@dataclass(frozen=True)
class MeasureInfo:
    """The properties of a measure.

    `low` and `high` describe the cause of a value that is too low or too high.
    """

    title: str
    role: Role
    low: str
    high: str = ""
    against_base: bool = True  # whether it is also measured on the base, for a delta
    largest: bool = False  # whether it is aggregated by the maximum instead of the mean
    better: Literal["higher", "lower", "neither"] = "higher"  # in a comparison of two versions

    def over(self, values: np.ndarray, axis: int | None = None) -> np.ndarray:
        """Return the aggregate that is compared with the limit."""
        return values.max(axis=axis) if self.largest else values.mean(axis=axis)


MEASURES: Final[Mapping[Measure, MeasureInfo]] = {
    "subject": MeasureInfo(
        "subject fidelity (DINO)",
        "subject",
        low="the subject is not recognised; train longer, raise the rank or add training pictures",
        high="the pictures hardly differ from the training pictures; train for fewer steps",
    ),
    "image": MeasureInfo(
        "subject fidelity (CLIP-I)",
        "subject",
        low="the subject is not recognised; train longer, raise the rank or add training pictures",
        high="the pictures hardly differ from the training pictures; train for fewer steps",
    ),
    "text": MeasureInfo(
        "text fidelity (CLIP-T)",
        "subject",
        low="prompts are no longer followed; train for fewer steps or caption the pictures",
    ),
    "drift": MeasureInfo(
        "drift of unrelated prompts",
        "unrelated",
        low="unrelated pictures did not change",
        high="the adapter changes unrelated pictures; "
        "raise the prior's weight, lower the learning rate or train for fewer steps",
        against_base=False,
        better="lower",
    ),
    "diversity": MeasureInfo(
        "diversity across seeds",
        "subject",
        low="one prompt gives nearly one picture; train for fewer steps or add training pictures",
    ),
    "copying": MeasureInfo(
        "similarity to a training picture",
        "subject",
        low="no picture is similar to a training picture",
        high="a training picture is reproduced; train for fewer steps or add training pictures",
        against_base=False,
        largest=True,
        better="lower",
    ),
    "effect": MeasureInfo(
        "effect on the picture",
        "subject",
        low="the adapter changes nothing; check that it was trained, and that its weight is not 0",
        high="the adapter changes more than the subject; lower the learning rate",
        against_base=False,
        better="neither",
    ),
}


@dataclass(frozen=True)
class Verdict:
    """The results of all gates, the decision, and the reasons for it."""

    gates: tuple[GateResult, ...]
    accepted: bool
    reasons: tuple[str, ...]


def verdict(evaluation: Evaluation, policy: Policy) -> Verdict:
    """Compute the verdict from the measures in `evaluation`, under `policy` and the recipe's gates.

    Raises Refused if the evaluation has other settings or pictures than the policy requires: the
    values of such an evaluation cannot be compared with the policy's limits.
    """
    require_same_protocol(evaluation, policy)
    strictest = limits(policy.gates, evaluation.recipe_gates)
    gates = tuple(_result(evaluation.measures, *limit) for limit in strictest)
    failed = [_reason(gate) for gate in gates if not gate.passed]
    close = [_close(gate) for gate in gates if gate.passed and _is_close(gate)]
    first = [] if failed else [f"all {len(gates)} gates passed"]
    return Verdict(gates, not failed, tuple(failed or [*first, *close]))


def require_same_protocol(evaluation: Evaluation, policy: Policy) -> None:
    """Raise Refused if scorers, sampling settings or prompt set differ from the policy's."""
    theirs: dict[str, object] = {
        "scorers": evaluation.scorers,
        "scheduler": evaluation.sampling.scheduler,
        "steps": evaluation.sampling.steps,
        "guidance_scale": evaluation.sampling.guidance_scale,
    }
    ours: dict[str, object] = {
        "scorers": policy.scorers.model_dump(),
        "scheduler": policy.scheduler,
        "steps": policy.steps,
        "guidance_scale": policy.guidance_scale,
    }
    for name, required in ours.items():
        if theirs[name] != required:
            raise Refused(
                f"{evaluation.adapter}: evaluated with {name} {theirs[name]}, "
                f"but the policy requires {required}; evaluate it again under this policy"
            )
    cases = prompt_set(policy, trigger=evaluation.trigger, noun=evaluation.noun)
    required_pictures = sorted((case.role, case.prompt, case.seed) for case in cases)
    pictures = sorted((item.role, item.prompt, item.seed) for item in evaluation.measures.pictures)
    if pictures != required_pictures:
        raise Refused(
            f"{evaluation.adapter}: evaluated with {len(pictures)} pictures, which are not the "
            f"policy's {len(required_pictures)} (prompts times seeds); "
            "evaluate it again under this policy"
        )


def limits(*sources: Mapping[Measure, Gate]) -> list[tuple[Measure, Kind, float]]:
    """Return every limit that a source sets; the strictest if several sources set it.

    Raises PolicyError for a delta of a measure that already compares with the base.
    """
    strictest: dict[tuple[Measure, Kind], float] = {}
    for gates in sources:
        for name, kind, limit in _each_limit(gates):
            before = strictest.get((name, kind), limit)
            stricter = max if kind.startswith("min") else min
            strictest[name, kind] = stricter(before, limit)
    order = list(MEASURES)
    ordered = sorted(strictest, key=lambda key: (order.index(key[0]), KINDS.index(key[1])))
    return [(name, kind, strictest[name, kind]) for name, kind in ordered]


def _each_limit(gates: Mapping[Measure, Gate]) -> Iterator[tuple[Measure, Kind, float]]:
    for name, gate in gates.items():
        for kind in KINDS:
            limit = getattr(gate, kind)
            if limit is None:
                continue
            if kind.endswith("delta") and not MEASURES[name].against_base:
                raise PolicyError(
                    f"gates.{name}.{kind}: {name} already compares with the base; "
                    f"use {kind.removesuffix('_delta')}"
                )
            yield name, kind, limit


def _result(measures: Measures, name: Measure, kind: Kind, threshold: float) -> GateResult:
    """Return the result of one gate. A gate without a value (one seed has no diversity) fails."""
    delta = kind.endswith("delta")
    pictures = [picture for picture in measures.pictures if _has(picture, name, delta)]
    if not pictures:
        return unmeasured(name, kind, threshold)
    values = np.array([_value(picture, name, delta) for picture in pictures])
    measure = MEASURES[name]
    value = round(float(measure.over(values)), 6)
    low = kind.startswith("min")
    order = np.argsort(values if low else -values, kind="stable")
    return GateResult(
        name=name,
        kind=kind,
        value=value,
        threshold=threshold,
        ci=interval(len(values), lambda indices: measure.over(values[indices], axis=1)),
        passed=value >= threshold if low else value <= threshold,
        pictures=tuple(pictures[int(index)].picture for index in order),
    )


def unmeasured(name: Measure, kind: Kind, threshold: float) -> GateResult:
    """Return the failed result of a gate that has no value."""
    return GateResult(
        name=name, kind=kind, value=None, threshold=threshold, ci=None, passed=False, pictures=()
    )


def _has(picture: Measured, name: str, delta: bool) -> bool:
    return name in picture.values and (not delta or name in picture.base_values)


def _value(picture: Measured, name: str, delta: bool) -> float:
    return picture.values[name] - (picture.base_values[name] if delta else 0.0)


def interval(pictures: int, statistic: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
    """Return the 95 % bootstrap percentile interval over pictures (Efron and Tibshirani, 1993).

    `statistic` maps picture indices [resamples, pictures] to one value per resample. The random
    seed is fixed, so equal measures give equal intervals. The interval of a maximum extends only
    downwards, because no resample exceeds the largest measured value.
    """
    indices = np.random.default_rng(0).integers(0, pictures, (RESAMPLES, pictures))
    statistics = statistic(indices)
    low, high = (float(np.quantile(statistics, q)) for q in (0.025, 0.975))
    return round(low, 6), round(high, 6)


def _is_close(gate: GateResult) -> bool:
    if gate.ci is None:
        return False
    low, high = gate.ci
    return low < gate.threshold if gate.kind.startswith("min") else high > gate.threshold


def _reason(gate: GateResult) -> str:
    measure = MEASURES[gate.name]
    if gate.value is None or gate.ci is None:
        return f"{measure.title} could not be measured; give the policy at least two seeds"
    low = gate.kind.startswith("min")
    side, why = ("below", measure.low) if low else ("above", measure.high)
    what = f"{measure.title}{' minus the base’s' if gate.kind.endswith('delta') else ''}"
    return (
        f"{what} is {gate.value:.3f}, {side} the limit of {gate.threshold:.3f} "
        f"(95 % interval {gate.ci[0]:.3f} to {gate.ci[1]:.3f}, {len(gate.pictures)} pictures): "
        f"{why} (worst: {', '.join(gate.pictures[:2])})"
    )


def _close(gate: GateResult) -> str:
    assert gate.ci is not None  # _is_close
    return (
        f"{MEASURES[gate.name].title} passes at {gate.value:.3f}, but its 95 % interval "
        f"({gate.ci[0]:.3f} to {gate.ci[1]:.3f}) crosses the limit of {gate.threshold:.3f}"
    )
