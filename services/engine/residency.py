"""Which adapters are in host memory, and which of them make room for another: decisions only.

Nothing is given up before it is certain that the newcomer fits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from atelier.errors import Unavailable

Key = TypeVar("Key", bound=Hashable)


class Residency(Generic[Key]):
    """Keys with their bytes, at most `limit` together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._bytes: OrderedDict[Key, int] = OrderedDict()  # the longest unused first

    def room_for(self, wanted: int, droppable: Callable[[Key], bool]) -> list[Key]:
        """The keys to drop so that `wanted` bytes more fit, the longest unused first.

        Unavailable where they would not fit even so. Nothing is dropped yet.
        """
        missing = self.used + wanted - self.limit
        dropped: list[Key] = []
        for key, size in self._bytes.items():
            if missing <= 0:
                break
            if droppable(key):
                dropped.append(key)
                missing -= size
        if missing > 0:
            raise Unavailable(
                f"adapters: {wanted} bytes more do not fit host_memory={self.limit}; "
                "remove adapters or raise host_memory"
            )
        return dropped

    def add(self, key: Key, size: int) -> None:
        """Count a key as in memory, used just now."""
        self.drop(key)
        self._bytes[key] = size
        self.used += size

    def touch(self, key: Key) -> None:
        """Count a key as used just now, where it is in memory."""
        if key in self._bytes:
            self._bytes.move_to_end(key)

    def drop(self, key: Key) -> None:
        """Count a key as no longer in memory."""
        self.used -= self._bytes.pop(key, 0)
