"""Delivery on a cluster: git declares the serving versions and Helm applies them."""

from .promotion import STEPS, Promotion, approval_by_policy
from .record import record
from .releases import AdapterReleases, PromotionOutcome
from .retirement import retire
from .rollback import roll_back
from .status import EnvironmentStatus, StatusLine, compare, environment_status

__all__ = [
    "STEPS",
    "AdapterReleases",
    "EnvironmentStatus",
    "Promotion",
    "PromotionOutcome",
    "StatusLine",
    "approval_by_policy",
    "compare",
    "environment_status",
    "record",
    "retire",
    "roll_back",
]
