"""Judging an adapter before it may serve: pictures by the engine that serves, numbers, a verdict.

`evaluate` makes and measures the pictures; `verdict` works the gates out from what it wrote, as
often as anybody wants to, under any policy with the same pictures.
"""

from .attestations import (
    attest,
    attested_evaluation,
    evaluation_under,
    judged_version,
    pictures,
)
from .comparison import Comparison, compare
from .evaluation import FILE, SHEET, Evaluation, GateResult
from .gates import MEASURES, Verdict, verdict
from .judge import evaluate

__all__ = [
    "FILE",
    "MEASURES",
    "SHEET",
    "Comparison",
    "Evaluation",
    "GateResult",
    "Verdict",
    "attest",
    "attested_evaluation",
    "compare",
    "evaluate",
    "evaluation_under",
    "judged_version",
    "pictures",
    "verdict",
]
