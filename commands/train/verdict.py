"""The verdict of an evaluation as `atelier evaluate` and `atelier run` print it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from commands.terminal import table

if TYPE_CHECKING:
    from pipelines.evaluate import Evaluation


def reasons_of(evaluation: "Evaluation", label: str | None) -> tuple[str, ...]:
    """Return the reasons; with the label of a registered version, with addresses of pictures."""
    from pipelines.evaluate import addressed

    return addressed(evaluation.reasons, label) if label else evaluation.reasons


def verdict_lines(evaluation: "Evaluation", reasons: Sequence[str]) -> list[str]:
    """Return the table of the gates and the reasons."""
    likeness = evaluation.measures.references.likeness
    rows = [
        (
            gate.name,
            gate.measured,
            gate.limit,
            gate.interval,
            f"{likeness[gate.name]:.3f}"
            if gate.name in likeness and "delta" not in gate.kind
            else "",
            gate.mark,
        )
        for gate in evaluation.gates
    ]
    heads = ("GATE", "VALUE", "LIMIT", "INTERVAL", "CEILING", "")
    return [table(heads, rows), *(f"- {reason}" for reason in reasons)]


def verdict_data(evaluation: "Evaluation", reasons: Sequence[str]) -> dict[str, Any]:
    """Return the same facts for --json."""
    return {
        "adapter": evaluation.adapter,
        "digest": evaluation.digest,
        "accepted": evaluation.accepted,
        "decision": evaluation.decision,
        "reasons": list(reasons),
        "gates": [gate.model_dump(mode="json") for gate in evaluation.gates],
        "ceiling": dict(evaluation.measures.references.likeness),
    }
