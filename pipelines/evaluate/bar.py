"""Places the value of a gate, its interval and its limit on a horizontal bar, in percent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .evaluation import GateResult

MARGIN: Final = 0.08  # of the span, on both sides
LEAST: Final = 0.02  # span of a bar whose numbers are all equal


@dataclass(frozen=True)
class GateBar:
    """Positions on a bar, from 0 to 100 percent of its width."""

    limit: float
    good: tuple[float, float]  # start and width of the side on which the gate passes
    value: float | None
    interval: tuple[float, float] | None  # start and width
    ceiling: float | None
    ends: tuple[float, float]  # the numbers at 0 and at 100 percent

    @classmethod
    def of(cls, gate: GateResult, ceiling: float | None = None) -> "GateBar":
        """Return the bar of a gate. `ceiling` is the value that an adapter can hardly exceed."""
        numbers = [gate.threshold, *(gate.ci or ())]
        numbers += [number for number in (gate.value, ceiling) if number is not None]
        low, high = _ends(numbers)

        def place(number: float) -> float:
            return round(100 * (number - low) / (high - low), 2)

        limit = place(gate.threshold)
        ends = (place(gate.ci[0]), place(gate.ci[1])) if gate.ci else None
        return cls(
            limit=limit,
            good=(limit, 100 - limit) if gate.kind.startswith("min") else (0.0, limit),
            value=None if gate.value is None else place(gate.value),
            interval=None if ends is None else (ends[0], round(ends[1] - ends[0], 2)),
            ceiling=None if ceiling is None else place(ceiling),
            ends=(low, high),
        )


def _ends(numbers: Sequence[float]) -> tuple[float, float]:
    """Return the smallest and the largest number, with a margin."""
    low, high = min(numbers), max(numbers)
    span = max(high - low, LEAST)
    middle = (low + high) / 2
    half = span * (0.5 + MARGIN)
    return middle - half, middle + half
