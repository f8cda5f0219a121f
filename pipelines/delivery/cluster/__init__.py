"""Delivery on a cluster: git declares what serves, Helm makes it so."""

from .promotion import STEPS, Promotion
from .record import record
from .releases import AdapterReleases, PromotionOutcome
from .retirement import retire
from .rollback import roll_back
from .status import StatusLine, compare

__all__ = [
    "STEPS",
    "AdapterReleases",
    "Promotion",
    "PromotionOutcome",
    "StatusLine",
    "compare",
    "record",
    "retire",
    "roll_back",
]
