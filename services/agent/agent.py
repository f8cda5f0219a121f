"""Keeps a replica's volume as its releases say, and tells what the replica holds.

Nothing here decides: `plan` does. Whatever is away or broken, the replica goes on with the last
good state, and its report says why.
"""

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from atelier.adapter.signature_policy import SignaturePolicy
from atelier.contract.replica import Replica
from atelier.contract.sharded_file import ShardedFile
from atelier.contract.shards import Shards
from atelier.contract.wanted import Wanted
from atelier.errors import AtelierError, SignatureRejected, Unavailable
from atelier.stores.environment import Released, Releases, Reports
from services.agent.fetcher import PackageFetcher
from services.agent.packages import Fetch, PackageShelf
from services.agent.plan import PACKAGES, Known, Named, Planner, RoundPlan
from services.agent.reporting import ReplicaReport

logger = logging.getLogger(__name__)

Signed = Callable[[str, int], Sequence[bytes]]  # adapter, version: its signatures

SPARE = 8 * 2**20  # bytes of the volume that packages leave to wanted.json, loaded.json and others


@dataclass(frozen=True)
class ReplicaIdentity:
    """Who a replica is, beyond what its engine knows."""

    replica: str
    address: str | None = None  # of its HTTP
    grpc: str | None = None
    pool: str | None = None


@dataclass(frozen=True)
class RoundSnapshot:
    """What one round saw; for health and metrics."""

    made: RoundPlan
    told: Replica | None = None  # None before the engine's first word
    asked: Wanted = field(default_factory=Wanted)
    troubles: Sequence[str] = ()
    known: bool = False  # whether it was ever read what is released
    fresh: float = 0.0  # when releases were last read without trouble, seconds since the epoch
    failures: int = 0  # fetches that failed, since the start

    @property
    def ready(self) -> bool:
        """Whether every release that fits is served by some version, its own or the last good."""
        if self.told is None or not self.told.live() or not self.known:
            return False
        told = self.told.adapters
        return all(
            any(one.default and one.state == "ready" for one in told.named(name))
            for names in (self.made.missing.sharded, self.asked.adapters.sharded)
            for name in names
        )


class Agent:
    """One replica's agent. `sync` is one round and never waits for the network."""

    def __init__(
        self,
        *,
        place: ReplicaIdentity,
        volume: Path,
        releases: Releases,
        reports: Reports[Replica],
        fetch: Fetch,
        signed: Signed,
        trust: SignaturePolicy,
    ):
        self._place = place
        self._volume = volume
        self._releases = releases
        self._reports = reports
        self._trust = trust
        self._shelf = PackageShelf(volume / PACKAGES, trust)
        self._shelf.sweep()
        self._fetch = fetch
        self._signed = signed
        self._fetching = PackageFetcher(self._bring)
        self._planner = Planner()
        self._report = ReplicaReport()
        self._wanted = ShardedFile(volume / "wanted.json", Wanted)
        self._loaded = ShardedFile(volume / "loaded.json", Replica)
        self._known: Released | None = None  # what could be read last
        self._fresh = 0.0
        self._damaged: dict[str, str] = {}  # by digest, until it is whole again
        self._failing: dict[str, set[str]] = {}  # by adapter: digests that the engine has refused
        self._last: Replica | None = None  # what the engine said in the round before
        self._reported: Replica | None = None
        self._said: tuple[Sequence[str], ...] = ()
        self.seen: RoundSnapshot | None = None  # the last round's
        self.ready = False  # once everything served; a bad release later costs no other adapter

    def sync(self) -> RoundPlan:
        """One round: look, decide, ask the engine, fetch, prune, report."""
        troubles = self._read_releases()
        loaded = self._read_loaded()
        self._fetching.collect()
        if loaded is not None:
            self._doubt_what_failed(loaded)
        good, bad = self._shelf.scan()
        self._damaged = {d: why for d, why in (self._damaged | bad).items() if d not in good}
        troubles += self._shelf.warnings.values()
        asked = self._read_wanted()
        made = self._plan(loaded, asked, good)
        for digest in made.prune:  # first: it makes room for what follows
            self._shelf.remove(digest)
        if made.wanted != asked.adapters:
            asked, trouble = self._ask(made, asked)
            troubles += trouble
        self._fetching.want(made.fetch)
        told = self._tell(loaded, made, troubles) if loaded is not None else None
        self.seen = RoundSnapshot(
            made,
            told,
            asked,
            troubles,
            known=self._known is not None,
            fresh=self._fresh,
            failures=self._fetching.failures,
        )
        self.ready = self.ready or self.seen.ready
        return made

    def close(self, *, withdraw: bool = False) -> None:
        """End. The report goes stale by itself, as the engine's heartbeat is in it; `withdraw` it
        where the engine ends as well, and nobody is to ask it any more."""
        self._fetching.close()
        if withdraw:
            self._reports.remove(self._place.replica)

    def _plan(self, loaded: Replica | None, asked: Wanted, good: Shards[bool]) -> RoundPlan:
        """The next state; as it was asked last where the engine or the releases are not known."""
        refused = frozenset(self._shelf.refused)
        if loaded is None or self._known is None:
            return RoundPlan(wanted=asked.without(refused).adapters)
        return self._planner.plan(
            Known(
                loaded=loaded,
                releases=self._known.releases,
                on_volume=good,
                asked=asked,
                unreadable=self._known.unreadable,
                refused=refused,
            )
        )

    def _doubt_what_failed(self, loaded: Replica) -> None:
        """Have each package verified again, once, that the engine says it cannot load."""
        last, self._last = self._last, loaded
        before = last.adapters if last else type(loaded.adapters)()
        for name in loaded.adapters.changed(before):
            failed = {o.digest for o in loaded.adapters.named(name) if o.state == "failed"}
            for digest in failed - self._failing.get(name, set()):
                self._shelf.doubt(digest)
            if failed:
                self._failing[name] = failed
            else:
                self._failing.pop(name, None)

    def _ask(self, made: RoundPlan, asked: Wanted) -> tuple[Wanted, list[str]]:
        """Write wanted.json; where the volume is full the engine goes on with the last one."""
        wanted = Wanted(adapters=made.wanted, generation=asked.generation + 1)
        try:
            self._wanted.write(wanted)
        except OSError as error:
            return asked, [f"the engine cannot be asked: {self._volume}: {error.strerror}"]
        return wanted, []

    def _bring(self, one: Named) -> None:
        """Fetch a package and put it on the shelf (in a thread of its own)."""
        try:
            free = shutil.disk_usage(self._volume).free
            if free < SPARE:
                raise Unavailable(
                    f"{one.name}@{one.version}: {self._volume} has {free >> 20} MiB left, too "
                    "little for a package; make room, or give the volume more"
                )
            if self._shelf.adopt(one):
                return
            signatures = self._signatures(one)
            self._shelf.put(one, self._fetch, signatures)
        except OSError as error:
            raise Unavailable(
                f"{one.name}@{one.version}: cannot be put on {self._volume}: {error.strerror}"
            ) from error

    def _signatures(self, one: Named) -> Sequence[bytes]:
        """A version's signatures, where one is asked for; without it nothing large is fetched."""
        if self._trust.policy == "off":
            return ()
        signatures = self._signed(one.name, one.version)
        if not signatures and self._trust.policy == "enforce":
            raise SignatureRejected(
                f"{one.name}@{one.version}: is not signed, and this environment serves only what "
                f"is; run `atelier sign {one.name} {one.version}`"
            )
        return signatures

    def _read_releases(self) -> list[str]:
        """Refresh what is released; where that fails the last known state stays."""
        try:
            self._known = self._releases.read()
        except (AtelierError, OSError) as error:
            return [f"releases cannot be read, going on with the last ones: {error}"]
        if self._known.trouble:
            told = f"releases may be out of date: {self._known.trouble}"
            return [told, *self._known.unreadable.values()]
        self._fresh = time.time()
        return list(self._known.unreadable.values())

    def _read_wanted(self) -> Wanted:
        """What was asked last; nothing where that cannot be read."""
        try:
            return self._wanted.read()
        except (OSError, ValueError):
            return Wanted()

    def _read_loaded(self) -> Replica | None:
        """The engine's last words; None before its first."""
        try:
            return self._loaded.read()
        except (OSError, ValueError):
            return None

    def _tell(self, loaded: Replica, made: RoundPlan, troubles: list[str]) -> Replica:
        problems = self._damaged | self._fetching.problems
        told = self._report.made(
            loaded, made, problems=problems, passing=self._fetching.passing, troubles=troubles
        )
        place = self._place
        told = told.model_copy(
            update={
                "replica": place.replica,
                "address": place.address,
                "grpc": place.grpc,
                "pool": place.pool,
            }
        )
        if told != self._reported:
            self._reports.put(told)
            self._reported = told
        said = (list(problems.values()), troubles, made.ignored)
        if said != self._said:  # each sentence once, not four times a second
            before = {sentence for sentences in self._said for sentence in sentences}
            for sentence in sorted({one for some in said for one in some} - before):
                logger.warning("%s", sentence)
            self._said = said
        return told
