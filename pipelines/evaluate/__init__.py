"""Evaluates an adapter before it may serve.

`evaluate` renders pictures with the serving engine and measures them. `verdict` computes the gates
from these measurements, and can be repeated under every policy that requires the same pictures.
"""

from .along import checkpoint_judge
from .attestations import (
    attest,
    attested_evaluation,
    evaluation_under,
    judged_version,
    pictures,
)
from .comparison import Comparison, compare
from .evaluation import FILE, SHEET, Evaluation, GateResult
from .gates import Verdict, verdict
from .judge import evaluate
from .measure_info import MEASURES

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
    "checkpoint_judge",
    "compare",
    "evaluate",
    "evaluation_under",
    "judged_version",
    "pictures",
    "verdict",
]
