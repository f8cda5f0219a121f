"""Measures how often a policy errs on labelled adapters, and whether its intervals are true."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from atelier.data.policy import Measure, Policy
from pipelines.evaluate.evaluation import Decision, Evaluation, Kind
from pipelines.evaluate.gates import Verdict, limits, statistic, values_by_prompt, verdict
from pipelines.evaluate.intervals import mean_interval, rate_interval
from pipelines.evaluate.measure_info import MEASURES

from .labelled import Labelled

LEVELS: Final = (0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Outcome:
    """The verdict about one labelled adapter."""

    item: Labelled
    decision: Decision
    seeds: int  # per prompt, when the verdict was decided
    cause: str  # named by a refusal; otherwise empty

    @property
    def wrong(self) -> bool:
        """Whether a clear label and a decision contradict each other."""
        if not self.item.clear or self.decision == "undecided":
            return False
        return (self.decision == "accepted") != self.item.good

    @property
    def right_cause(self) -> bool | None:
        """Whether a refusal names one of the label's causes; None if there is nothing to name."""
        causes = self.item.label.causes
        return self.cause in causes if causes and self.decision == "refused" else None


@dataclass(frozen=True)
class Separation:
    """How well a gate's value alone separates good from bad adapters."""

    name: Measure
    kind: Kind
    area: float  # under the ROC curve: 1 separates perfectly, 0.5 not at all
    kinds: dict[str, float]  # the same for the bad adapters of each kind


@dataclass(frozen=True)
class Reliability:
    """The error that intervals state, and the error that was observed."""

    level: float
    rate: bool  # of rates, whose intervals are conservative; otherwise of means
    pairs: int
    observed: float  # share of pairs whose difference is outside of both intervals together

    @property
    def stated(self) -> float:
        """The error that the level states."""
        return 1 - self.level


@dataclass(frozen=True)
class Check:
    """The errors of a policy on labelled adapters."""

    outcomes: tuple[Outcome, ...]
    separations: tuple[Separation, ...]
    reliabilities: tuple[Reliability, ...]

    @property
    def clear(self) -> tuple[Outcome, ...]:
        """The outcomes with a clear label."""
        return tuple(outcome for outcome in self.outcomes if outcome.item.clear)

    @property
    def wrong(self) -> float:
        """The share of wrong decisions among the clear adapters."""
        return _share([outcome.wrong for outcome in self.clear])

    @property
    def undecided(self) -> float:
        """The share of the clear adapters for which there was not enough evidence."""
        return _share([outcome.decision == "undecided" for outcome in self.clear])

    def confusion(self) -> dict[tuple[str, str], Counter[Decision]]:
        """Return the decisions by kind and label."""
        table: dict[tuple[str, str], Counter[Decision]] = {}
        for outcome in self.outcomes:
            key = outcome.item.label.kind, outcome.item.label.label
            table.setdefault(key, Counter())[outcome.decision] += 1
        return table


def check(adapters: Sequence[Labelled], policy: Policy) -> Check:
    """Judge every adapter under the policy, as `evaluate` does, and compare with its label."""
    return Check(
        outcomes=tuple(_outcome(item, policy) for item in adapters),
        separations=tuple(_separations(adapters, policy)),
        reliabilities=tuple(_reliabilities(adapters, policy)),
    )


def _outcome(item: Labelled, policy: Policy) -> Outcome:
    result, seeds = decide(item.evaluation, policy)
    named = result.reasons[0].partition(":")[0] if result.decision == "refused" else ""
    return Outcome(item, result.decision, seeds, named)


def decide(evaluation: Evaluation, policy: Policy) -> tuple[Verdict, int]:
    """Return the verdict of the first look that decides, and its number of seeds.

    The measures of a picture that compare it with other seeds (diversity) are those of the whole
    evaluation, which has the policy's largest number of seeds.
    """
    for seeds in policy.seeds.looks:
        result = verdict(first_seeds(evaluation, seeds), policy)
        if result.decision != "undecided":
            break
    return result, seeds


def first_seeds(evaluation: Evaluation, count: int) -> Evaluation:
    """Return the evaluation with the pictures of its first `count` seeds."""
    pictures = tuple(p for p in evaluation.measures.pictures if p.seed < count)
    measures = evaluation.measures.model_copy(update={"pictures": pictures})
    return evaluation.model_copy(update={"measures": measures})


def _separations(adapters: Sequence[Labelled], policy: Policy) -> Iterator[Separation]:
    clear = [item for item in adapters if item.clear]
    for name, kind, _ in limits(policy.gates):
        sign = 1 if kind.startswith("min") else -1
        values = [statistic(item.evaluation.measures, name, kind) for item in clear]
        groups: dict[str | None, list[float]] = {}  # of bad adapters by kind; None: the good ones
        for item, value in zip(clear, values, strict=True):
            if value is not None:
                groups.setdefault(None if item.good else item.label.kind, []).append(sign * value)
        good, bad = groups.pop(None, []), {key: of for key, of in groups.items() if key}
        if good and bad:
            areas = {of: area(good, bad[of]) for of in sorted(bad)}
            yield Separation(name, kind, area(good, [v for of in bad.values() for v in of]), areas)


def area(good: Sequence[float], bad: Sequence[float]) -> float:
    """Return the area under the ROC curve: the probability that a good value is above a bad one."""
    difference = np.asarray(good)[:, None] - np.asarray(bad)[None, :]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def _reliabilities(adapters: Sequence[Labelled], policy: Policy) -> Iterator[Reliability]:
    """Compare disjoint groups of seeds of one adapter, whose true value is the same."""
    names = dict.fromkeys(n for n, _, _ in limits(policy.gates) if MEASURES[n].has_interval)
    for rate in (False, True):
        prompts = [
            values_by_prompt(item.evaluation, name)
            for item in adapters
            for name in names
            if MEASURES[name].rate == rate
        ]
        for level in LEVELS:
            missed = [miss for of_item in prompts for miss in _misses(of_item, level, policy, rate)]
            if missed:
                yield Reliability(level, rate, len(missed), _share(missed))


def _misses(
    prompts: Sequence[np.ndarray], level: float, policy: Policy, rate: bool
) -> Iterator[bool]:
    each = policy.seeds.first
    seeds = min((len(values) for values in prompts), default=0)
    for start in range(0, seeds - 2 * each + 1, 2 * each):
        one, other = (
            [values[begin : begin + each] for values in prompts] for begin in (start, start + each)
        )
        yield _differ_by_rate(one, other, level) if rate else _differ(one, other, level)


def _differ(one: Sequence[np.ndarray], other: Sequence[np.ndarray], level: float) -> bool:
    """Return whether the interval of the difference of two means excludes 0."""
    both = mean_interval([*one, *(-values for values in other)], level, rate=False)
    return both is not None and not both[0] - 1e-12 <= 0 <= both[1] + 1e-12


def _differ_by_rate(one: Sequence[np.ndarray], other: Sequence[np.ndarray], level: float) -> bool:
    """Return whether two rates differ by more than their intervals together.

    The reach is the root of the sum of the squared distances to the ends that face each other.
    """
    sides = sorted([np.concatenate(one), np.concatenate(other)], key=np.mean)
    ends = [rate_interval(values, level) for values in sides]
    low, high = (float(values.mean()) for values in sides)
    return bool(high - low > np.hypot(ends[0][1] - low, high - ends[1][0]))


def _share(hits: Sequence[bool]) -> float:
    return float(np.mean(hits)) if hits else 0.0
