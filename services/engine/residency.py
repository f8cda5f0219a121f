"""Decide which adapters are in host memory, and which of them to drop for a new adapter.

This module moves no data. No adapter is dropped before it is certain that the new adapter fits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from atelier.errors import Unavailable

Key = TypeVar("Key", bound=Hashable)


class Residency(Generic[Key]):
    """Keys with their sizes in bytes, at most `limit` in total, in order of last use."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._bytes: OrderedDict[Key, int] = OrderedDict()  # least recently used first

    def room_for(self, wanted: int, droppable: Callable[[Key], bool]) -> list[Key]:
        """Return the keys to drop so that `wanted` more bytes fit, least recently used first.

        The caller drops them. Raises Unavailable if dropping all `droppable` keys would not
        suffice.
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
                f"adapters: {wanted} more bytes do not fit in host_memory={self.limit}; "
                "remove adapters or raise host_memory"
            )
        return dropped

    def add(self, key: Key, size: int) -> None:
        """Record that a key is in memory and has just been used."""
        self.drop(key)
        self._bytes[key] = size
        self.used += size

    def touch(self, key: Key) -> None:
        """Record that a key has just been used, if it is in memory."""
        if key in self._bytes:
            self._bytes.move_to_end(key)

    def drop(self, key: Key) -> None:
        """Record that a key is no longer in memory."""
        self.used -= self._bytes.pop(key, 0)
