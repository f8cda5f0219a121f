"""Which adapter has which place in the bank: decisions only, no tensors.

One owner of the scarce memory. A slot in use is never given away; among the idle, the one unused
for the longest time goes first. Slot 0 belongs to nobody: it is all zeros and means the base.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Grant:
    """A slot to use; `fresh` says that the adapter must be written there first."""

    slot: int
    fresh: bool


class Slots(Generic[Key]):
    """Reference-counted slots 1 … count."""

    def __init__(self, count: int) -> None:
        """All slots free; ValueError for a count below 1."""
        if count < 1:
            raise ValueError(f"slots: {count} is less than 1")
        self.count = count
        self._free = list(range(count, 0, -1))  # popped from the end: slot 1 first
        self._slot: dict[Key, int] = {}
        self._users: dict[Key, int] = {}
        self._idle: OrderedDict[Key, None] = OrderedDict()  # the longest unused first

    def acquire(self, key: Key) -> Grant | None:
        """A slot for one more user of `key`, or None while every slot is in use by others."""
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
        """One user less; the adapter stays in its slot until another needs the place.

        Raises KeyError where nobody uses it.
        """
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
            self._idle[key] = None

    def forget(self, key: Key) -> None:
        """Give an idle adapter's slot back: its weights are wrong or no longer wanted."""
        if key in self._idle:
            del self._idle[key]
            self._free.append(self._slot.pop(key))

    def users(self, key: Key) -> int:
        """How many users hold `key`."""
        return self._users.get(key, 0)

    @property
    def resident(self) -> Mapping[Key, int]:
        """Every adapter that has a slot, in use or idle."""
        return self._slot

    @property
    def in_use(self) -> int:
        """The number of slots that may not be overwritten."""
        return len(self._users)

    def _take(self) -> int | None:
        if self._free:
            return self._free.pop()
        if self._idle:
            oldest, _ = self._idle.popitem(last=False)
            return self._slot.pop(oldest)
        return None
