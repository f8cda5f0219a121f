"""What serves in an environment on a cluster: git declares it, Helm makes it so."""

from .promotion import STEPS, Outcome, Rollout
from .status import Line, compare

__all__ = ["STEPS", "Line", "Outcome", "Rollout", "compare"]
