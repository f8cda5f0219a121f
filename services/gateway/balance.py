"""Choose the replica for a call. This module does no network I/O.

While the shares do not change, a key always maps to the same pool. Among the replicas of the pool
that serve the adapters of the call, the replica with the fewest in-flight calls is chosen.
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
LEFT_OUT_SECONDS = 2.0  # seconds without calls for a replica that refused a connection

Wanted = Collection[tuple[str, int]]  # names and versions of a call's adapters


@dataclass(frozen=True)
class Fleet:
    """The live replicas, and the shares of the canary pools in percent."""

    replicas: Sequence[Replica] = ()
    shares: Mapping[str, int] | None = None


class Balancer:
    """Choose among the replicas of `fleet`, and count the in-flight calls of each replica."""

    def __init__(
        self, fleet: Callable[[], Fleet], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fleet = fleet
        self._clock = clock
        self._known: Sequence[Replica] = ()  # the last live replicas
        self._under_way: Counter[str] = Counter()
        self._turns: dict[str, int] = {}  # number of the last call of each replica, to break ties
        self._left_out: dict[str, float] = {}  # time until which each replica is left out

    def replicas(self) -> Sequence[Replica]:
        """Return the live replicas.

        If no replica reports, return the last known live replicas, which may still be running.
        """
        self._known = self._fleet().replicas or self._known
        return self._known

    def choose(self, caller: str, wanted: Wanted, tried: Collection[str] = ()) -> Replica | None:
        """Return the replica for a call with the adapters `wanted`, or None if none serves them.

        `caller` is the id of the key. If the key's pool has no such replica, a replica of the
        stable pool is used, or else of any pool. The replicas in `tried` are skipped.
        """
        shares = self._fleet().shares or {}
        able = [
            replica
            for replica in self.replicas()
            if replica.replica not in tried and all(replica.has_ready(*pin) for pin in wanted)
        ]
        pools = (pool_of(shares, caller), STABLE)
        pool = next((members for name in pools if (members := _in(able, name))), able)
        now = self._clock()
        reachable = [replica for replica in pool if self._left_out.get(replica.replica, 0.0) <= now]
        return min(
            reachable or pool,
            key=lambda replica: (
                self._under_way[replica.replica],
                self._turns.get(replica.replica, 0),
            ),
            default=None,
        )

    @contextmanager
    def under_way(self, replica: str) -> Iterator[None]:
        """Count a call as in flight on a replica, inside the block."""
        self._turns[replica] = max(self._turns.values(), default=0) + 1
        self._under_way[replica] += 1
        try:
            yield
        finally:
            self._under_way[replica] -= 1
            self._forget()

    def leave_out(self, replica: str) -> None:
        """Prefer the other replicas for LEFT_OUT_SECONDS."""
        self._left_out[replica] = self._clock() + LEFT_OUT_SECONDS

    def _forget(self) -> None:
        """Drop the entries of replicas that no longer report and have no in-flight calls."""
        names = {replica.replica for replica in self._known}
        for table in (self._under_way, self._turns, self._left_out):
            for gone in [name for name in table if name not in names]:
                if not self._under_way[gone]:
                    table.pop(gone, None)


def pool_of(shares: Mapping[str, int], caller: str) -> str:
    """Return the pool of a key.

    Each pool of `shares` gets a part of [0, 100), and the stable pool gets the rest. `place_of`
    decides the part of the key.
    """
    place = place_of(caller)
    for pool, percent in sorted(shares.items()):
        if place < percent:
            return pool
        place -= percent
    return STABLE


def place_of(text: str) -> float:
    """Return a fixed number in [0, 100) for a text, uniformly distributed (SHA-256)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64 * 100


def _in(replicas: Sequence[Replica], pool: str) -> list[Replica]:
    return [replica for replica in replicas if (replica.pool or STABLE) == pool]
