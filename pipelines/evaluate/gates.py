"""From numbers to a verdict: every gate of a policy, worked out from single pictures' numbers.

Nothing here makes or opens a picture, so a promotion can repeat a verdict in milliseconds, under
its own policy, from an `evaluation.json` alone.
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
class Yardstick:
    """What a gate's name stands for. `low` and `high` say what is wrong when it fails that way."""

    title: str
    role: Role
    low: str
    high: str = ""
    against_base: bool = True  # the base's pictures have this number too, so a delta has a meaning
    largest: bool = False  # judged by its largest value instead of the mean
    better: Literal["higher", "lower", "neither"] = "higher"  # of two versions

    def over(self, values: np.ndarray, axis: int | None = None) -> np.ndarray:
        """The statistic that is held against the limit."""
        return values.max(axis=axis) if self.largest else values.mean(axis=axis)


MEASURES: Final[Mapping[Measure, Yardstick]] = {
    "subject": Yardstick(
        "subject fidelity (DINO)",
        "subject",
        low="the subject is not recognised; train longer, raise the rank or show more pictures",
        high="the pictures hardly differ from the training pictures; train for fewer steps",
    ),
    "image": Yardstick(
        "subject fidelity (CLIP-I)",
        "subject",
        low="the subject is not recognised; train longer, raise the rank or show more pictures",
        high="the pictures hardly differ from the training pictures; train for fewer steps",
    ),
    "text": Yardstick(
        "text fidelity (CLIP-T)",
        "subject",
        low="prompts are no longer followed; train for fewer steps or caption the pictures",
    ),
    "drift": Yardstick(
        "drift of unrelated prompts",
        "unrelated",
        low="nothing changed where nothing should",
        high="the adapter changes what it was not asked for; "
        "raise the prior's weight, lower the learning rate or train for fewer steps",
        against_base=False,
        better="lower",
    ),
    "diversity": Yardstick(
        "diversity across seeds",
        "subject",
        low="one prompt gives nearly one picture; train for fewer steps or show more pictures",
    ),
    "copying": Yardstick(
        "likeness to a training picture",
        "subject",
        low="no picture comes near the training pictures",
        high="a training picture is given back; train for fewer steps or show more pictures",
        against_base=False,
        largest=True,
        better="lower",
    ),
    "effect": Yardstick(
        "effect on the picture",
        "subject",
        low="the adapter changes nothing; was it trained, and is it loaded with weight 0?",
        high="the picture is changed beyond the subject; lower the learning rate",
        against_base=False,
        better="neither",
    ),
}


@dataclass(frozen=True)
class Verdict:
    """All gates, and what they come to in words."""

    gates: tuple[GateResult, ...]
    accepted: bool
    reasons: tuple[str, ...]


def verdict(evaluation: Evaluation, policy: Policy) -> Verdict:
    """Judge again from the numbers in `evaluation`, under `policy` and the recipe's own gates.

    Raises Refused where the pictures are not those that the policy asks for: their numbers could
    not be compared with its limits.
    """
    require_same_protocol(evaluation, policy)
    wanted = limits(policy.gates, evaluation.recipe_gates)
    gates = tuple(_judge(evaluation.measures, *limit) for limit in wanted)
    failed = [_reason(gate) for gate in gates if not gate.passed]
    close = [_close(gate) for gate in gates if gate.passed and _is_close(gate)]
    first = [] if failed else [f"all {len(gates)} gates passed"]
    return Verdict(gates, not failed, tuple(failed or [*first, *close]))


def require_same_protocol(evaluation: Evaluation, policy: Policy) -> None:
    """Refuse numbers that were taken by another procedure than the policy's."""
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
    for name, wanted in ours.items():
        if theirs[name] != wanted:
            raise Refused(
                f"{evaluation.adapter}: judged with {name} {theirs[name]}, "
                f"but the policy asks for {wanted}; evaluate it again under this policy"
            )
    asked = prompt_set(policy, trigger=evaluation.trigger, noun=evaluation.noun)
    wanted_pictures = sorted((shot.role, shot.prompt, shot.seed) for shot in asked)
    found = sorted((one.role, one.prompt, one.seed) for one in evaluation.measures.pictures)
    if found != wanted_pictures:
        raise Refused(
            f"{evaluation.adapter}: judged by {len(found)} pictures that are not the policy's "
            f"{len(wanted_pictures)} (prompts times seeds); evaluate it again under this policy"
        )


def limits(*wanted: Mapping[Measure, Gate]) -> list[tuple[Measure, Kind, float]]:
    """Every limit that somebody sets, the strictest where several do.

    Raises PolicyError for a limit that has no meaning.
    """
    found: dict[tuple[Measure, Kind], float] = {}
    for gates in wanted:
        for name, kind, limit in _each_limit(gates):
            before = found.get((name, kind), limit)
            found[name, kind] = max(before, limit) if kind.startswith("min") else min(before, limit)
    order = list(MEASURES)
    ordered = sorted(found, key=lambda key: (order.index(key[0]), KINDS.index(key[1])))
    return [(name, kind, found[name, kind]) for name, kind in ordered]


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


def _judge(measures: Measures, name: Measure, kind: Kind, threshold: float) -> GateResult:
    """One gate. A number that is missing (one seed has no diversity) is a failed gate."""
    delta = kind.endswith("delta")
    behind = [one for one in measures.pictures if _has(one, name, delta)]
    if not behind:
        return unmeasured(name, kind, threshold)
    values = np.array([_value(one, name, delta) for one in behind])
    measure = MEASURES[name]
    value = round(float(measure.over(values)), 6)
    low = kind.startswith("min")
    order = np.argsort(values if low else -values, kind="stable")
    return GateResult(
        name=name,
        kind=kind,
        value=value,
        threshold=threshold,
        ci=interval(len(values), lambda drawn: measure.over(values[drawn], axis=1)),
        passed=value >= threshold if low else value <= threshold,
        pictures=tuple(behind[int(index)].picture for index in order),
    )


def unmeasured(name: Measure, kind: Kind, threshold: float) -> GateResult:
    """A limit that there is no number for: failed."""
    return GateResult(
        name=name, kind=kind, value=None, threshold=threshold, ci=None, passed=False, pictures=()
    )


def _has(one: Measured, name: str, delta: bool) -> bool:
    return name in one.values and (not delta or name in one.base_values)


def _value(one: Measured, name: str, delta: bool) -> float:
    return one.values[name] - (one.base_values[name] if delta else 0.0)


def interval(pictures: int, statistic: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
    """The bootstrap's 95 % percentile interval over pictures, the same each time it is asked.

    `statistic` works a number out from each row of picture indices [resamples, pictures]. For a
    largest value it can only reach downwards: a resample never exceeds what was seen.
    """
    drawn = np.random.default_rng(0).integers(0, pictures, (RESAMPLES, pictures))
    statistics = statistic(drawn)
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
        return f"{measure.title} could not be measured: the policy needs two seeds or more for it"
    low = gate.kind.startswith("min")
    side, why = ("below", measure.low) if low else ("above", measure.high)
    what = f"{measure.title}{', less the base’s,' if gate.kind.endswith('delta') else ''}"
    return (
        f"{what} is {gate.value:.3f}, {side} the limit of {gate.threshold:.3f} "
        f"(95 % interval {gate.ci[0]:.3f} to {gate.ci[1]:.3f}, {len(gate.pictures)} pictures): "
        f"{why} (worst: {', '.join(gate.pictures[:2])})"
    )


def _close(gate: GateResult) -> str:
    assert gate.ci is not None  # _is_close
    return (
        f"{MEASURES[gate.name].title} passes at {gate.value:.3f}, but its 95 % interval "
        f"({gate.ci[0]:.3f} to {gate.ci[1]:.3f}) reaches over the limit of {gate.threshold:.3f}"
    )
