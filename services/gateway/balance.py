"""Which replica a call goes to: decisions only, no network.

The key decides the pool (the same key, the same pool), the adapters which replicas of it can make
the picture, and the fewest calls under way which of those does.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from atelier.contract.replica import Replica

STABLE = "stable"
LEFT_OUT_SECONDS = 2.0  # for a replica that refused a connection

Wanted = Collection[tuple[str, int]]  # adapters of a call: name and version


@dataclass(frozen=True)
class Fleet:
    """The replicas that are there, and the canary pools' shares in percent."""

    replicas: Sequence[Replica] = ()
    shares: Mapping[str, int] | None = None


class Balancer:
    """Chooses among the replicas of `fleet`, and counts what is under way at each."""

    def __init__(
        self, fleet: Callable[[], Fleet], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fleet = fleet
        self._clock = clock
        self._known: Sequence[Replica] = ()  # the last that were there
        self._under_way: Counter[str] = Counter()
        self._turns: dict[str, int] = {}  # when each was last chosen, for fairness among equals
        self._left_out: dict[str, float] = {}  # until when

    def replicas(self) -> Sequence[Replica]:
        """Those that are there; silence of all says nothing about their engines."""
        self._known = self._fleet().replicas or self._known
        return self._known

    def choose(self, caller: str, wanted: Wanted, tried: Collection[str] = ()) -> Replica | None:
        """The replica for a call with these adapters; None where none can make it."""
        shares = self._fleet().shares or {}
        able = [
            one
            for one in self.replicas()
            if one.replica not in tried and all(one.can_draw(*pin) for pin in wanted)
        ]
        pools = (pool_of(shares, caller), STABLE)
        mine = next((found for pool in pools if (found := _in(able, pool))), able)
        now = self._clock()
        here = [one for one in mine if self._left_out.get(one.replica, 0.0) <= now] or mine
        return min(
            here,
            key=lambda one: (self._under_way[one.replica], self._turns.get(one.replica, 0)),
            default=None,
        )

    @contextmanager
    def under_way(self, replica: str) -> Iterator[None]:
        """A call that a replica works on."""
        self._turns[replica] = max(self._turns.values(), default=0) + 1
        self._under_way[replica] += 1
        try:
            yield
        finally:
            self._under_way[replica] -= 1
            self._forget()

    def leave_out(self, replica: str) -> None:
        """Ask others for a moment, where there are any."""
        self._left_out[replica] = self._clock() + LEFT_OUT_SECONDS

    def _forget(self) -> None:
        """Replicas come and go; nothing is kept of those that are gone."""
        there = {one.replica for one in self._known}
        for table in (self._under_way, self._turns, self._left_out):
            for gone in [name for name in table if name not in there]:
                if not self._under_way[gone]:
                    table.pop(gone, None)


def pool_of(shares: Mapping[str, int], caller: str) -> str:
    """The pool of a key: a place that stays its own, and the shares laid end to end."""
    place = place_of(caller)
    for pool, percent in sorted(shares.items()):
        if place < percent:
            return pool
        place -= percent
    return STABLE


def place_of(text: str) -> float:
    """In [0, 100), evenly spread and always the same."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64 * 100


def _in(replicas: Sequence[Replica], pool: str) -> list[Replica]:
    return [one for one in replicas if (one.pool or STABLE) == pool]
