"""Limits the number of images in one network call to the number that fits into device memory.

The memory that a call needs depends on the model, the backend and the driver, and other processes
may use the device, so the number is learnt: it is halved when a call runs out of memory, and
doubled again after some calls that worked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from services.engine.scheduling import Shape

RECOVERY: Final = 256  # calls at the limit before a larger one is tried again


@dataclass
class _Limit:
    images: int
    worked: int = 0  # calls with this number of images since the limit was set


class CallSize:
    """The largest number of images in a call, by latent shape. Without an error, there is none."""

    def __init__(self) -> None:
        self._limits: dict[Shape, _Limit] = {}

    def of(self, shape: Shape, wanted: int) -> int:
        """Return how many of `wanted` images to put into the next call, at least one."""
        limit = self._limits.get(shape)
        return wanted if limit is None else min(wanted, limit.images)

    def ran_out(self, shape: Shape, images: int) -> None:
        """Record that a call with this number of images ran out of memory."""
        self._limits[shape] = _Limit(max(1, images // 2))

    def worked(self, shape: Shape, images: int) -> None:
        """Record that a call worked."""
        limit = self._limits.get(shape)
        if limit is None or images < limit.images:
            return
        limit.worked += 1
        if limit.worked >= RECOVERY:
            self._limits[shape] = _Limit(2 * limit.images)
