"""Chooses the limit of every gate: no good adapter fails, and bad ones fail by a wide margin.

For each gate, the worst good adapter bounds the limit. Each bad adapter is assigned to the gate
that it fails by most, relative to the scatter of the good adapters. The limit of a gate is in the
middle between the worst good adapter and the best bad adapter that is assigned to it, as in a
classifier of maximum margin. A gate to which no bad adapter is assigned keeps its limit, unless a
good adapter would fail it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from atelier.data.policy import Gate, Measure, Policy
from atelier.errors import BadInput
from pipelines.evaluate.evaluation import Kind
from pipelines.evaluate.gates import limits, statistic

from .labelled import Labelled

Key = tuple[Measure, Kind]

DIGITS: Final = 3  # of a limit in a policy file
SLACK: Final = 0.5  # of the good adapters' standard deviation, below the worst of them


@dataclass(frozen=True)
class ChosenLimit:
    """The limit of a gate, and the values that determine it."""

    name: Measure
    kind: Kind
    before: float
    limit: float
    worst_good: float
    best_bad: float | None  # of the bad adapters that this gate refuses; None if there are none
    refuses: tuple[str, ...]  # the bad adapters that are assigned to it


def choose(adapters: Sequence[Labelled], policy: Policy) -> list[ChosenLimit]:
    """Choose the limits of the policy's gates from labelled adapters.

    Raises BadInput if there is no good or no bad adapter, or a gate has no value for a good one.
    """
    good = [item for item in adapters if item.clear and item.good]
    bad = [item for item in adapters if item.clear and not item.good]
    if not good or not bad:
        raise BadInput(
            f"{len(good)} good and {len(bad)} bad adapters choose no limits; label some of each"
        )
    gates = limits(policy.gates)
    bounds = {(name, kind): _bounds(good, name, kind) for name, kind, _ in gates}
    assigned = _assign(bad, bounds)
    return [
        _chosen(name, kind, before, bounds[name, kind], assigned.get((name, kind), []))
        for name, kind, before in gates
    ]


def with_limits(policy: Policy, chosen: Sequence[ChosenLimit]) -> Policy:
    """Return the policy with the chosen limits."""
    gates: dict[Measure, dict[str, float]] = {}
    for limit in chosen:
        gates.setdefault(limit.name, {})[limit.kind] = limit.limit
    made = {name: Gate.model_validate(of_gate) for name, of_gate in gates.items()}
    return policy.model_copy(update={"gates": {**policy.gates, **made}})


def _value(item: Labelled, name: Measure, kind: Kind) -> float:
    value = statistic(item.evaluation.measures, name, kind)
    if value is None:
        raise BadInput(f"{item.name}: no value of {name} {kind}; evaluate it again")
    return value


def _bounds(good: Sequence[Labelled], name: Measure, kind: Kind) -> tuple[float, float]:
    """Return the value of the worst good adapter, and the standard deviation of the good ones."""
    values = np.array([_value(item, name, kind) for item in good])
    worst = values.min() if kind.startswith("min") else values.max()
    return float(worst), max(float(values.std()), 1e-3)


def _assign(
    bad: Sequence[Labelled], bounds: Mapping[Key, tuple[float, float]]
) -> dict[Key, list[tuple[float, str]]]:
    """Return the bad adapters by the gate that separates them best, as (value, name)."""
    assigned: dict[Key, list[tuple[float, str]]] = {}
    for item in bad:
        best: tuple[float, Key, float] | None = None
        for (name, kind), (worst, scatter) in bounds.items():
            value = statistic(item.evaluation.measures, name, kind)
            if value is None:
                continue
            beyond = (worst - value if kind.startswith("min") else value - worst) / scatter
            if beyond > 0 and (best is None or beyond > best[0]):
                best = (beyond, (name, kind), value)
        if best is not None:
            assigned.setdefault(best[1], []).append((best[2], item.name))
    return assigned


def _chosen(
    name: Measure,
    kind: Kind,
    before: float,
    bounds: tuple[float, float],
    refused: Sequence[tuple[float, str]],
) -> ChosenLimit:
    worst, scatter = bounds
    low = kind.startswith("min")
    if refused:
        best_bad = (max if low else min)(value for value, _ in refused)
        limit = (worst + best_bad) / 2
    else:
        best_bad = None
        loosest = worst - SLACK * scatter if low else worst + SLACK * scatter
        limit = (min if low else max)(before, loosest)
    return ChosenLimit(
        name=name,
        kind=kind,
        before=before,
        limit=round(limit, DIGITS),
        worst_good=worst,
        best_bad=best_bad,
        refuses=tuple(name for _, name in refused),
    )
