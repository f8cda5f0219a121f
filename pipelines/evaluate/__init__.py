"""Evaluates an adapter before it may serve.

`evaluate` renders pictures with the serving engine and measures them. `verdict` computes the gates
from these measurements, and can be repeated under every policy that requires the same pictures.
"""

from .addresses import PictureAddress, addressed
from .along import checkpoint_judge
from .attestations import (
    attest,
    attested_evaluation,
    download,
    download_folder,
    evaluation_under,
    judged_version,
    pictures,
    stored_picture,
)
from .comparison import Comparison, compare
from .evaluation import FILE, REPORT, SHEET, Evaluation, GateResult
from .gates import Verdict, verdict
from .judge import evaluate
from .measure_info import MEASURES

__all__ = [
    "FILE",
    "MEASURES",
    "REPORT",
    "SHEET",
    "Comparison",
    "Evaluation",
    "GateResult",
    "PictureAddress",
    "Verdict",
    "addressed",
    "attest",
    "attested_evaluation",
    "checkpoint_judge",
    "compare",
    "download",
    "download_folder",
    "evaluate",
    "evaluation_under",
    "judged_version",
    "pictures",
    "stored_picture",
    "verdict",
]
