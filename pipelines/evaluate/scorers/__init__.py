"""The networks that measure pictures, one module each, loaded by the names of a policy."""

from .files import find_scorers
from .loaded import Scorers
from .protocols import OptionalScorers

__all__ = ["OptionalScorers", "Scorers", "find_scorers"]
