"""Selects the pictures that a reader must see first: the worst of each gate and of each prompt."""

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from atelier.data.policy import Measure

from .evaluation import Evaluation, GateResult, GateState
from .measures import Pair
from .prompt_set import Role

# The measure that orders the pictures of a prompt, and whether low values are bad.
_ORDER: Final[dict[Role, tuple[Measure, bool]]] = {
    "subject": ("subject", True),
    "class": ("class_drift", False),
    "unrelated": ("drift", False),
}
_SEVERITY: Final[dict[GateState, int]] = {"failed": 0, "open": 1, "passed": 3}
_NEAR: Final = 2  # severity of a gate that passed narrowly


def by_severity(gates: Sequence[GateResult]) -> list[GateResult]:
    """Return the gates, those that failed first, then the open, the narrow and the other ones."""
    return sorted(gates, key=lambda gate: _NEAR if gate.near else _SEVERITY[gate.state])


def prompts(pairs: Sequence[Pair], evaluation: Evaluation, role: Role) -> list[list[Pair]]:
    """Return the pairs of each prompt of a role, the worst pair of each prompt first."""
    name, low = _ORDER[role]
    sign = 1 if low else -1
    value = {
        measured.picture: sign * measured.values[name]
        for measured in evaluation.measures.pictures
        if name in measured.values
    }
    of_role = [pair for pair in pairs if pair.case.role == role]
    return [
        sorted(group, key=lambda pair: value.get(pair.case.file, 0.0))
        for _, group in groupby(of_role, key=lambda pair: pair.case.number)
    ]
