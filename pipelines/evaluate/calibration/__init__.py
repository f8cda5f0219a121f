"""Chooses the limits of a policy from adapters with known labels, and measures how often it errs.

The labels come from people, or from a program that knows the subjects (`models/miniature`); never
from the scorers of the policy, which would then confirm themselves.
"""

from .check import Check, check
from .labelled import Label, Labelled, halves, load
from .limits import ChosenLimit, choose, with_limits
from .report import report, summary, write_limits

__all__ = [
    "Check",
    "ChosenLimit",
    "Label",
    "Labelled",
    "check",
    "choose",
    "halves",
    "load",
    "report",
    "summary",
    "with_limits",
    "write_limits",
]
