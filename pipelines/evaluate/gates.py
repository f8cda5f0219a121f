"""Computes the verdict: every gate of a policy, from the measures of single pictures.

This module opens no pictures. A promotion can therefore recompute a verdict in milliseconds, under
its own policy, from `evaluation.json` alone.

A gate is decided by its confidence interval: it passes if the whole interval is on the good side of
the limit, fails if the whole interval is on the bad side, and is open otherwise. While a gate is
open, `judge.py` adds pictures, up to the policy's number of seeds. The policy's `error` is divided
by the number of times that the gates are computed (Bonferroni), so that repeated looks do not raise
the probability of a wrong decision.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from atelier.data.policy import Gate, Measure, Policy
from atelier.errors import PolicyError, Refused

from .causes import cause
from .evaluation import Decision, Evaluation, GateResult, GateState, Kind, Measures
from .intervals import Interval, mean_interval, worst, worst_interval
from .measure_info import KINDS, MEASURES
from .prompt_set import prompt_set

ENOUGH_REFERENCES: Final = 3


@dataclass(frozen=True)
class Verdict:
    """The results of all gates, the decision, and the reasons for it."""

    gates: tuple[GateResult, ...]
    decision: Decision
    reasons: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        """Whether every gate passed."""
        return self.decision == "accepted"


def verdict(evaluation: Evaluation, policy: Policy) -> Verdict:
    """Compute the verdict from the measures in `evaluation`, under `policy` and the recipe's gates.

    Raises Refused if the evaluation has other settings or pictures than the policy requires: the
    values of such an evaluation cannot be compared with the policy's limits.
    """
    require_same_protocol(evaluation, policy)
    level = 1 - policy.error / len(policy.seeds.looks)
    strictest = [
        limit
        for limit in limits(policy.gates, evaluation.recipe_gates)
        if applies(limit[0], evaluation)
    ]
    gates = tuple(_result(evaluation, *limit, level) for limit in strictest)
    states = {gate.state for gate in gates}
    if "failed" in states:
        bad = [gate for gate in gates if gate.state == "failed"]
        why = cause(evaluation, gates)
        failures = [_reason(evaluation, gate) for gate in bad]
        reasons = (str(why), *failures, *_few_references(evaluation))
        return Verdict(gates, "refused", reasons)
    if "open" in states:
        reasons = (*_open_reasons(evaluation, policy, gates), *_few_references(evaluation))
        return Verdict(gates, "undecided", reasons)
    near = [_near(evaluation, gate) for gate in gates if gate.near]
    reasons = (f"all {len(gates)} gates passed", *near, *_few_references(evaluation))
    return Verdict(gates, "accepted", reasons)


def _few_references(evaluation: Evaluation) -> tuple[str, ...]:
    """Return a remark if there are so few references that their poses affect the measures."""
    references = evaluation.measures.references
    count = len(references.pictures)
    if count >= ENOUGH_REFERENCES:
        return ()
    fix = "raise dataset.hold_back" if references.held_back else "add pictures of the subject"
    return (f"only {count} reference pictures: their poses affect the measures; {fix}",)


def applies(name: Measure, evaluation: Evaluation) -> bool:
    """Return whether an adapter has a measure.

    A style has neither trigger nor class, a single reference picture has no other to match, and the
    only companion of a policy has none itself.
    """
    if not MEASURES[name].sampled:
        return len(evaluation.measures.references.pictures) > 1
    if name == "together":
        return bool(evaluation.companions)
    return MEASURES[name].role != "class" or bool(evaluation.noun or evaluation.trigger)


def require_same_protocol(evaluation: Evaluation, policy: Policy) -> None:
    """Raise Refused if scorers, sampling settings or prompt set differ from the policy's."""
    theirs: dict[str, object] = {
        "scorers": evaluation.scorers,
        "scheduler": evaluation.sampling.scheduler,
        "steps": evaluation.sampling.steps,
        "guidance_scale": evaluation.sampling.guidance_scale,
        "companions": evaluation.companions,
    }
    ours: dict[str, object] = {
        "scorers": policy.scorers.model_dump(),
        "scheduler": policy.scheduler,
        "steps": policy.steps,
        "guidance_scale": policy.guidance_scale,
        "companions": policy.companions_of(evaluation.adapter),
    }
    for name, required in ours.items():
        if theirs[name] != required:
            raise Refused(
                f"{evaluation.adapter}: evaluated with {name} {theirs[name]}, "
                f"but the policy requires {required}; evaluate it again under this policy"
            )
    pictures = sorted((item.role, item.prompt, item.seed) for item in evaluation.measures.pictures)
    seeds = len({seed for _, _, seed in pictures})
    if seeds not in policy.seeds.looks or pictures != _required(evaluation, policy, seeds):
        raise Refused(
            f"{evaluation.adapter}: its {len(pictures)} pictures are not those of the policy "
            f"(its prompts, with {' or '.join(map(str, policy.seeds.looks))} seeds each); "
            "evaluate it again under this policy"
        )


def _required(evaluation: Evaluation, policy: Policy, seeds: int) -> list[tuple[str, str, int]]:
    cases = prompt_set(policy, trigger=evaluation.trigger, noun=evaluation.noun, seeds=range(seeds))
    return sorted((case.role, case.prompt, case.seed) for case in cases)


def limits(*sources: Mapping[Measure, Gate]) -> list[tuple[Measure, Kind, float]]:
    """Return every limit that a source sets; the strictest if several sources set it.

    Raises PolicyError for a limit that the measure does not have.
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
            _refuse_senseless(name, kind)
            yield name, kind, limit


def _refuse_senseless(name: Measure, kind: Kind) -> None:
    measure, place = MEASURES[name], f"gates.{name}.{kind}"
    plain = kind.partition("_")[0]
    if kind.endswith("delta") and not measure.against_base:
        raise PolicyError(f"{place}: {name} already compares with the base; use {plain}")
    if kind.endswith("worst") and not measure.has_interval:
        raise PolicyError(f"{place}: {name} has no mean per prompt; use {plain}")


@dataclass(frozen=True)
class _Value:
    """The value of one picture. `prompt` is empty for a reference picture."""

    prompt: str
    picture: str
    value: float


def _values(measures: Measures, name: Measure, delta: bool) -> list[_Value]:
    """Return the values of a measure, or their differences from the base's if `delta`."""
    if not MEASURES[name].sampled:
        references = measures.references.pictures
        return [_Value("", r.file, r.values[name]) for r in references if name in r.values]
    return [
        _Value(p.prompt, p.picture, p.values[name] - (p.base_values[name] if delta else 0.0))
        for p in measures.pictures
        if name in p.values and (not delta or name in p.base_values)
    ]


def _result(
    evaluation: Evaluation, name: Measure, kind: Kind, threshold: float, level: float
) -> GateResult:
    """Return the result of one gate. A gate without a value has failed."""
    values = _values(evaluation.measures, name, kind.endswith("delta"))
    if not values:
        return unmeasured(name, kind, threshold)
    low = kind.startswith("min")
    prompts = _by_prompt(values)
    value, ci = _statistic(list(prompts.values()), name, kind, level)
    if kind.endswith("worst"):
        bad = (min if low else max)(prompts, key=lambda prompt: prompts[prompt].mean())
        values = [item for item in values if item.prompt == bad]
    worst_first = sorted(values, key=lambda item: item.value, reverse=not low)
    return GateResult(
        name=name,
        kind=kind,
        value=round(value, 6),
        threshold=threshold,
        ci=None if ci is None else (round(ci[0], 6), round(ci[1], 6)),
        state=_state(value, ci, name, threshold, low),
        pictures=tuple(item.picture for item in worst_first),
    )


def _statistic(
    prompts: Sequence[np.ndarray], name: Measure, kind: Kind, level: float
) -> tuple[float, Interval | None]:
    """Return the value that is compared with the limit, and its interval."""
    value, measure = _aggregate(prompts, name, kind), MEASURES[name]
    if not measure.has_interval:
        return value, None
    rate = measure.rate and not kind.endswith("delta")
    if kind.endswith("worst"):
        low = kind.startswith("min")
        return value, worst_interval(prompts, level, low=low, rate=rate)
    return value, mean_interval(prompts, level, rate=rate)


def _aggregate(prompts: Sequence[np.ndarray], name: Measure, kind: Kind) -> float:
    if MEASURES[name].largest:
        return float(max(values.max() for values in prompts))
    means = [float(values.mean()) for values in prompts]
    return worst(means, kind.startswith("min")) if kind.endswith("worst") else float(np.mean(means))


def _state(
    value: float, ci: Interval | None, name: Measure, threshold: float, low: bool
) -> GateState:
    """Decide a gate by its interval; a measure without one (see MeasureInfo) by its value."""
    if not MEASURES[name].has_interval:
        ci = (value, value)
    if ci is None:
        return "open"
    if ci[0] >= threshold if low else ci[1] <= threshold:
        return "passed"
    return "failed" if (ci[1] < threshold if low else ci[0] > threshold) else "open"


def values_by_prompt(evaluation: Evaluation, name: Measure) -> list[np.ndarray]:
    """Return the values of a measure for each prompt, in the order of the pictures."""
    return list(_by_prompt(_values(evaluation.measures, name, delta=False)).values())


def statistic(measures: Measures, name: Measure, kind: Kind) -> float | None:
    """Return the value that a gate of this kind compares with its limit; None without one."""
    values = _values(measures, name, kind.endswith("delta"))
    if not values:
        return None
    return _aggregate(list(_by_prompt(values).values()), name, kind)


def _by_prompt(values: Sequence[_Value]) -> dict[str, np.ndarray]:
    grouped: dict[str, list[float]] = {}
    for item in values:
        grouped.setdefault(item.prompt, []).append(item.value)
    return {prompt: np.array(of_prompt) for prompt, of_prompt in grouped.items()}


def unmeasured(name: Measure, kind: Kind, threshold: float) -> GateResult:
    """Return the failed result of a gate that has no value."""
    return GateResult(
        name=name, kind=kind, value=None, threshold=threshold, ci=None, state="failed", pictures=()
    )


def title(gate: GateResult) -> str:
    """Return what a gate measures, in words."""
    plain = MEASURES[gate.name].title
    if gate.kind.endswith("worst"):
        return f"{plain} for the worst prompt"
    return f"{plain}{' minus the base’s' if gate.kind.endswith('delta') else ''}"


def _reason(evaluation: Evaluation, gate: GateResult) -> str:
    if gate.value is None:
        return f"{title(gate)} could not be measured: {MEASURES[gate.name].needs}"
    side = "below" if gate.kind.startswith("min") else "above"
    return (
        f"{title(gate)} is {gate.value:.3f}, {side} the limit of {gate.threshold:.3f}"
        f"{_evidence(evaluation, gate)}"
    )


def _open_reasons(
    evaluation: Evaluation, policy: Policy, gates: Sequence[GateResult]
) -> tuple[str, ...]:
    unclear = [gate for gate in gates if gate.state == "open"]
    seeds = len({picture.seed for picture in evaluation.measures.pictures})
    first = (
        f"not enough evidence: {len(unclear)} of {len(gates)} gates are open with {seeds} seeds "
        f"per prompt (the policy allows {policy.seeds.most})"
    )
    return (first, *(_open(evaluation, gate) for gate in unclear))


def _open(evaluation: Evaluation, gate: GateResult) -> str:
    value = "unknown" if gate.value is None else f"{gate.value:.3f}"
    return (
        f"{title(gate)} is {value}, too near the limit of {gate.threshold:.3f} to decide"
        f"{_evidence(evaluation, gate)}"
    )


def _near(evaluation: Evaluation, gate: GateResult) -> str:
    return (
        f"{title(gate)} passes narrowly: {gate.value:.3f}, limit {gate.threshold:.3f}"
        f"{_evidence(evaluation, gate)}"
    )


def _evidence(evaluation: Evaluation, gate: GateResult) -> str:
    """Return the interval, the worst pictures, and the look-alikes that pictures resemble."""
    parts = []
    if gate.ci is not None:
        low, high = gate.ci
        parts.append(f"interval {low:.3f} to {high:.3f}, {len(gate.pictures)} pictures")
    parts.append(f"worst: {', '.join(gate.named)}")
    if gate.name == "retrieval":
        pictures = evaluation.measures.pictures
        taken = Counter(p.look_alike for p in pictures if p.look_alike is not None)
        parts += [f"taken for {name} in {count} pictures" for name, count in taken.most_common(2)]
    return f" ({'; '.join(parts)})"
