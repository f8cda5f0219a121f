"""The agent of one replica: keep the volume equal to the releases, and report the replica's state.

The module `plan` makes the decisions. If a service is unavailable or a package is invalid, the
replica continues with its last valid state, and its report contains the reason.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from atelier.adapter.signature_policy import SignaturePolicy
from atelier.contract.replica import Loaded, Replica
from atelier.contract.sharded_file import ShardedFile
from atelier.contract.shards import Shards
from atelier.contract.wanted import Wanted
from atelier.errors import AtelierError
from atelier.stores.environment import Released, Releases, Reports
from services.agent.fetcher import PackageFetcher
from services.agent.packages import PackageRegistry, PackageShelf, PackageSource
from services.agent.plan import PACKAGES, PlanInputs, Planner, RoundPlan
from services.agent.reporting import ReplicaReport

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReplicaIdentity:
    """The name, addresses and pool of a replica. The report of the engine does not contain them."""

    replica: str
    address: str | None = None  # HTTP
    grpc: str | None = None
    pool: str | None = None


@dataclass(frozen=True)
class RoundSnapshot:
    """The inputs and results of one round, for health checks and metrics."""

    plan: RoundPlan
    report: Replica | None = None  # None before the engine's first report
    wanted: Wanted = field(default_factory=Wanted)
    problems: Sequence[str] = ()
    known: bool = False  # whether the releases have been read since the start
    read_at: float = 0.0  # last reading of the releases without a problem, seconds since the epoch
    failures: int = 0  # failed fetches since the start

    @property
    def ready(self) -> bool:
        """Whether the replica serves each release for its base, in the released or last version."""
        if self.report is None or not self.report.live() or not self.known:
            return False
        adapters = self.report.adapters
        return all(
            any(adapter.default and adapter.state == "ready" for adapter in adapters.named(name))
            for names in (self.plan.missing.sharded, self.wanted.adapters.sharded)
            for name in names
        )


class Agent:
    """The agent of one replica. `sync` runs one round and does not wait for the network."""

    def __init__(
        self,
        *,
        identity: ReplicaIdentity,
        volume: Path,
        releases: Releases,
        reports: Reports[Replica],
        registry: Callable[[], PackageRegistry],
        policy: SignaturePolicy,
    ):
        self._identity = identity
        self._volume = volume
        self._releases = releases
        self._reports = reports
        self._shelf = PackageShelf(volume / PACKAGES, policy)
        source = PackageSource(self._shelf, policy, registry)
        self._fetcher = PackageFetcher(source.fetch)
        self._planner = Planner()
        self._report = ReplicaReport()
        self._wanted = ShardedFile(volume / "wanted.json", Wanted)
        self._loaded = ShardedFile(volume / "loaded.json", Replica)
        self._head = ShardedFile(volume / "loaded.json", Loaded)  # of the same file
        self._resumed_generation = self._wanted_generation()
        self._released: Released | None = None  # the last reading that succeeded
        self._read_at = 0.0
        self._damaged: dict[str, str] = {}  # errors by digest, until the package is valid again
        self._failing: dict[str, set[str]] = {}  # by adapter: digests that the engine cannot load
        self._last_loaded: Replica | None = None
        self._reported: Replica | None = None
        self._logged: tuple[Sequence[str], ...] = ()
        self.snapshot: RoundSnapshot | None = None  # snapshot of the last round
        self.ready = False  # never reset, because one bad release must not stop the other adapters

    def sync(self) -> RoundPlan:
        """Run one round: read, plan, write `wanted.json`, fetch, prune and report."""
        self.ready = self.ready or self._resumes()
        if self.snapshot is None:
            self._shelf.sweep()
        problems = self._read_releases()
        loaded = self._read_loaded()
        self._fetcher.collect()
        if loaded is not None:
            self._recheck_failed(loaded)
        on_volume, bad = self._shelf.scan()
        damaged = self._damaged | bad
        self._damaged = {digest: e for digest, e in damaged.items() if digest not in on_volume}
        problems += self._shelf.warnings.values()
        wanted = self._read_wanted()
        plan = self._plan(loaded, wanted, on_volume)
        for digest in plan.prune:  # before fetching, because it frees space
            self._shelf.remove(digest)
        if plan.wanted != wanted.adapters:
            wanted, errors = self._write_wanted(plan, wanted)
            problems += errors
        self._fetcher.want(plan.fetch)
        report = self._publish(loaded, plan, problems) if loaded is not None else None
        self.snapshot = RoundSnapshot(
            plan,
            report,
            wanted,
            problems,
            known=self._released is not None,
            read_at=self._read_at,
            failures=self._fetcher.failures,
        )
        self.ready = self.ready or self.snapshot.ready
        return plan

    def close(self, *, withdraw: bool = False) -> None:
        """Stop fetching. With `withdraw`, also remove the report, because the engine ends too.

        A report that is not removed expires, because it contains the heartbeat of the engine.
        """
        self._fetcher.close()
        if withdraw:
            self._reports.remove(self._identity.replica)

    def _plan(self, loaded: Replica | None, wanted: Wanted, on_volume: Shards[bool]) -> RoundPlan:
        """Return the plan of the round. Without report or releases, it keeps the last versions."""
        refused = frozenset(self._shelf.refused)
        if loaded is None or self._released is None:
            return RoundPlan(wanted=wanted.without(refused).adapters)
        return self._planner.plan(
            PlanInputs(
                loaded=loaded,
                releases=self._released.releases,
                on_volume=on_volume,
                wanted=wanted,
                unreadable=self._released.unreadable,
                refused=refused,
            )
        )

    def _recheck_failed(self, loaded: Replica) -> None:
        """Verify each package that the engine reports as failed once more."""
        last, self._last_loaded = self._last_loaded, loaded
        before = last.adapters if last else type(loaded.adapters)()
        for name in loaded.adapters.changed(before):
            adapters = loaded.adapters.named(name)
            failed = {adapter.digest for adapter in adapters if adapter.state == "failed"}
            for digest in failed - self._failing.get(name, set()):
                self._shelf.recheck(digest)
            if failed:
                self._failing[name] = failed
            else:
                self._failing.pop(name, None)

    def _read_releases(self) -> list[str]:
        """Read the releases and return the problems. If this fails, keep the last releases."""
        try:
            self._released = self._releases.read()
        except (AtelierError, OSError) as error:
            return [f"releases cannot be read, so the last releases stay in use: {error}"]
        if self._released.trouble:
            problem = f"releases may be out of date: {self._released.trouble}"
            return [problem, *self._released.unreadable.values()]
        self._read_at = time.time()
        return list(self._released.unreadable.values())

    def _resumes(self) -> bool:
        """Whether the engine serves all adapters that it had when this agent started.

        Reads only the heads of the files, so the time does not depend on the number of adapters. It
        needs no releases: `wanted.json` is what an earlier process made of them.
        """
        generation = self._resumed_generation
        if not generation or self._wanted_generation() != generation:
            return False
        try:
            loaded = self._head.head()
        except (OSError, ValueError):
            return False
        return loaded.live() and loaded.settled and loaded.generation == generation

    def _wanted_generation(self) -> int:
        """Read the generation of `wanted.json`; 0 if it cannot be read."""
        try:
            return self._wanted.head().generation
        except (OSError, ValueError):
            return 0

    def _read_wanted(self) -> Wanted:
        """Return the content of `wanted.json`, or an empty list if it cannot be read."""
        try:
            return self._wanted.read()
        except (OSError, ValueError):
            return Wanted()

    def _write_wanted(self, plan: RoundPlan, last: Wanted) -> tuple[Wanted, list[str]]:
        """Write `wanted.json`. If the volume is full, the engine continues with the last one."""
        wanted = Wanted(adapters=plan.wanted, generation=last.generation + 1)
        try:
            self._wanted.write(wanted)
        except OSError as error:
            return last, [f"wanted.json cannot be written to {self._volume}: {error.strerror}"]
        return wanted, []

    def _read_loaded(self) -> Replica | None:
        """Return the content of the engine's `loaded.json`, or None if there is no such file."""
        try:
            return self._loaded.read()
        except (OSError, ValueError):
            return None

    def _publish(self, loaded: Replica, plan: RoundPlan, problems: list[str]) -> Replica:
        """Publish the report if it has changed, log new problems, and return the report."""
        errors = self._damaged | self._fetcher.problems
        report = self._report.update(
            loaded, plan, errors=errors, temporary=self._fetcher.temporary, problems=problems
        )
        identity = self._identity
        report = report.model_copy(
            update={
                "replica": identity.replica,
                "address": identity.address,
                "grpc": identity.grpc,
                "pool": identity.pool,
            }
        )
        if report != self._reported:
            self._reports.put(report)
            self._reported = report
        lines = (list(errors.values()), problems, plan.ignored)
        if lines != self._logged:  # log each problem once, not in every round
            before = {line for group in self._logged for line in group}
            for line in sorted({line for group in lines for line in group} - before):
                logger.warning("%s", line)
            self._logged = lines
        return report
