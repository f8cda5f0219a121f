"""Judging an adapter before it may serve: pictures by the engine that serves, numbers, a verdict.

`evaluate` makes and measures the pictures; `verdict` works the gates out from what it wrote, as
often as anybody wants to, under any policy with the same pictures.
"""

from .attested import attest, attested
from .evaluation import FILE, SHEET, Evaluation, GateResult
from .gates import MEASURES, Verdict, verdict
from .judge import evaluate

__all__ = [
    "FILE",
    "MEASURES",
    "SHEET",
    "Evaluation",
    "GateResult",
    "Verdict",
    "attest",
    "attested",
    "evaluate",
    "verdict",
]
