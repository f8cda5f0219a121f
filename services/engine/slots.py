"""Assign the slots of the bank to adapters. This module uses no tensors.

A slot in use is never reassigned. Among the idle slots, the least recently used slot is reassigned
first. Slot 0 is never assigned: it contains only zeros, for the base without an adapter.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Grant:
    """A slot to use. If `fresh` is true, the adapter must first be written to the slot."""

    slot: int
    fresh: bool


class Slots(Generic[Key]):
    """Reference-counted slots 1 … count."""

    def __init__(self, count: int) -> None:
        """Create `count` free slots. Raises ValueError if `count` is below 1."""
        if count < 1:
            raise ValueError(f"slots: {count} is less than 1; use at least 1")
        self.count = count
        self._free = list(range(count, 0, -1))  # popped from the end: slot 1 first
        self._slot: dict[Key, int] = {}
        self._users: dict[Key, int] = {}
        self._idle: OrderedDict[Key, None] = OrderedDict()  # least recently used first

    def acquire(self, key: Key) -> Grant | None:
        """Return a slot for one more user of `key`, or None if other keys use every slot."""
        fresh = key not in self._slot
        if fresh:
            slot = self._take()
            if slot is None:
                return None
            self._slot[key] = slot
        self._idle.pop(key, None)
        self._users[key] = self._users.get(key, 0) + 1
        return Grant(self._slot[key], fresh)

    def release(self, key: Key) -> None:
        """Remove one user of `key`; the adapter stays in its slot until the slot is reassigned.

        Raises KeyError if `key` has no user.
        """
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
            self._idle[key] = None

    def forget(self, key: Key) -> None:
        """Free the slot of an idle adapter, because the weights in the slot must not be used."""
        if key in self._idle:
            del self._idle[key]
            self._free.append(self._slot.pop(key))

    def users(self, key: Key) -> int:
        """Return the number of users of `key`."""
        return self._users.get(key, 0)

    @property
    def resident(self) -> Mapping[Key, int]:
        """The slot of every adapter that has one, in use or idle."""
        return self._slot

    @property
    def in_use(self) -> int:
        """The number of slots in use."""
        return len(self._users)

    def _take(self) -> int | None:
        if self._free:
            return self._free.pop()
        if self._idle:
            oldest, _ = self._idle.popitem(last=False)
            return self._slot.pop(oldest)
        return None
