"""What serves in an environment on a cluster: git declares it, Helm makes it so."""

from .promotion import STEPS, ClusterDelivery, PromotionOutcome
from .status import StatusLine, compare

__all__ = ["STEPS", "ClusterDelivery", "PromotionOutcome", "StatusLine", "compare"]
