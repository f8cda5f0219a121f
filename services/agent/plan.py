"""Decide which versions a replica should have. This module does no I/O.

A release names the version that serves. The replica also keeps the last versions, so that a
rollback does not depend on the registry. A version becomes the default when the engine reports it
as ready. If its package is invalid or missing, the last valid version therefore stays the default.
Each adapter is planned independently. A round plans only the adapters that have changed.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from atelier.contract.replica import HeldAdapter, Replica, base_label
from atelier.contract.shards import Shards, Versions
from atelier.contract.wanted import Wanted, WantedAdapter, default_of
from atelier.data.names import hex_of
from atelier.data.release import Pin, Release

# folder on the volume; the path of the volume differs between agent and engine
PACKAGES = "packages"
KEPT = 3  # versions of each release: the serving version, its canary, the newest past versions
SERVED = 2  # further versions that served before and that the release does not list


@dataclass(frozen=True)
class Named:
    """A version of an adapter."""

    name: str
    version: int
    digest: str


@dataclass(frozen=True)
class RoundPlan:
    """The versions to request from the engine, to fetch and to delete, with remarks."""

    wanted: Versions[WantedAdapter] = field(default_factory=Versions)
    fetch: tuple[Named, ...] = ()  # serving versions come first
    prune: tuple[str, ...] = ()  # digests
    ignored: tuple[str, ...] = ()  # remarks on releases for another base or VAE
    missing: Versions[Named] = field(default_factory=Versions)  # released, not on the volume yet


@dataclass(frozen=True)
class PlanInputs:
    """The inputs of a plan. An input that has not changed is the same object as before.

    The keys of `on_volume` are the digests of the verified packages. An adapter whose release is
    `unreadable` keeps its last versions, except `refused` digests, which are always removed from
    the engine: they may have been loaded before the environment required signatures.
    """

    loaded: Replica  # the engine's report
    releases: Shards[Release] = field(default_factory=Shards)
    on_volume: Shards[bool] = field(default_factory=Shards)
    wanted: Wanted = field(default_factory=Wanted)  # the last list for the engine
    unreadable: Collection[str] = ()
    refused: Collection[str] = ()


@dataclass(frozen=True)
class _AdapterPlan:
    """The plan of one adapter, and the digests that it depends on."""

    wanted: tuple[WantedAdapter, ...]
    missing: tuple[Named, ...]
    ignored: str
    needed: frozenset[str]  # digests that stay on the volume
    concerned: frozenset[str]
    serving: str | None  # digest of the released version


class Planner:
    """Plan each round. A change requires new plans only for the adapters that it affects."""

    def __init__(self) -> None:
        self._inputs: PlanInputs | None = None
        self._plans: dict[str, _AdapterPlan] = {}
        self._adapters: dict[
            str, set[str]
        ] = {}  # by digest: names of the adapters whose plans depend on it
        self._missing: dict[str, tuple[Named, ...]] = {}
        self._ignored: dict[str, str] = {}
        self._plan = RoundPlan()
        self.planned = 0  # number of adapters planned in the last round

    def plan(self, inputs: PlanInputs) -> RoundPlan:
        """Return the plan of the next round."""
        due = self._due(inputs)
        self.planned = len(due)
        before, self._inputs = self._inputs, inputs
        if before is None:  # unchanged versions must be the same objects from the first round on
            self._plan = RoundPlan(wanted=inputs.wanted.adapters)
        moved = inputs.on_volume.changed(before.on_volume if before else Shards())
        arrived = {digest for digest in moved if digest in inputs.on_volume}
        if not due and not arrived and not self._plan.prune:
            return self._plan
        touched = {*arrived, *self._plan.prune}
        for name in due:
            touched |= self._remove(name)
            touched |= self._add(name, _adapter_plan(name, inputs))
        self._plan = RoundPlan(
            wanted=self._plan.wanted.replaced({name: self._wanted(name) for name in due}),
            fetch=self._fetch() if due else self._plan.fetch,
            prune=tuple(sorted(d for d in touched if self._is_unused(d, inputs))),
            ignored=tuple(self._ignored[name] for name in sorted(self._ignored)),
            missing=self._plan.missing.replaced({n: self._missing.get(n, ()) for n in due}),
        )
        return self._plan

    def _due(self, inputs: PlanInputs) -> set[str]:
        """Return the adapters with a changed input."""
        last = self._inputs
        if last is None or _base(inputs) != _base(last):
            wanted, loaded = inputs.wanted.adapters.sharded, inputs.loaded.adapters.sharded
            return {*self._plans, *inputs.releases, *wanted, *loaded}
        due = inputs.wanted.adapters.changed(last.wanted.adapters)
        due |= inputs.loaded.adapters.changed(last.loaded.adapters)
        due |= set(inputs.unreadable) ^ set(last.unreadable)
        due |= inputs.releases.changed(last.releases)
        moved = inputs.on_volume.changed(last.on_volume)
        if inputs.refused is not last.refused:
            moved |= set(inputs.refused) ^ set(last.refused)
        for digest in moved:
            due |= self._adapters.get(digest, set())
        return due

    def _remove(self, name: str) -> frozenset[str]:
        """Remove the plan of an adapter. Return the digests on which it depended."""
        plan = self._plans.pop(name, None)
        self._missing.pop(name, None)
        self._ignored.pop(name, None)
        for digest in plan.concerned if plan else ():
            adapters = self._adapters[digest]
            adapters.discard(name)
            if not adapters:
                del self._adapters[digest]
        return plan.concerned if plan else frozenset()

    def _add(self, name: str, plan: _AdapterPlan) -> frozenset[str]:
        """Add the plan of an adapter. Return the digests on which it depends."""
        if plan.concerned or plan.ignored:
            self._plans[name] = plan
        if plan.missing:
            self._missing[name] = plan.missing
        if plan.ignored:
            self._ignored[name] = plan.ignored
        for digest in plan.concerned:
            self._adapters.setdefault(digest, set()).add(name)
        return plan.concerned

    def _wanted(self, name: str) -> tuple[WantedAdapter, ...]:
        plan = self._plans.get(name)
        return plan.wanted if plan else ()

    def _fetch(self) -> tuple[Named, ...]:
        """Return the missing versions by name. Versions that must serve come first."""
        missing = [version for name in sorted(self._missing) for version in self._missing[name]]
        serving = {name: self._plans[name].serving for name in self._missing}
        return tuple(sorted(missing, key=lambda version: serving[version.name] != version.digest))

    def _is_unused(self, digest: str, inputs: PlanInputs) -> bool:
        """Return whether a package is on the volume but not in a release, list or engine."""
        adapters = self._adapters.get(digest, ())
        needed = any(digest in self._plans[name].needed for name in adapters)
        return digest in inputs.on_volume and not needed


def _adapter_plan(name: str, inputs: PlanInputs) -> _AdapterPlan:
    """Plan one adapter."""
    release, loaded = inputs.releases.get(name), inputs.loaded.adapters.named(name)
    last = inputs.wanted.adapters.named(name)
    allowed = [version for version in last if version.digest not in inputs.refused]
    kept = release.kept(KEPT) if release else ()
    wanted: list[WantedAdapter] = []
    missing: tuple[Named, ...] = ()
    ignored = ""
    if release is None:
        wanted = allowed if name in inputs.unreadable else []
    elif not release.fits(inputs.loaded):
        ignored = (
            f"release {name} needs {base_label(release.base, release.vae)}, "
            f"but this replica serves {base_label(inputs.loaded.base, inputs.loaded.vae)}"
        )
    else:
        # If a package is damaged on the volume, the engine serves from memory until the new fetch.
        in_memory = {adapter.digest for adapter in loaded if adapter.state == "ready"}

        def available(digest: str) -> bool:
            present = digest in in_memory or digest in inputs.on_volume
            return present and digest not in inputs.refused

        missing = tuple(
            Named(name, pin.version, pin.digest)
            for pin in kept
            if pin.digest not in inputs.on_volume
        )
        pins = [pin for pin in kept if available(pin.digest)]
        others = [version for version in allowed if available(version.digest)]
        pins += _served_before(release, pins, others)
        default = _default(release, pins, default_of(allowed), loaded)
        pins += _still_serving(pins, others, default)
        by_digest = {version.digest: version for version in allowed}
        wanted = [
            _wanted(name, pin, pin.digest == default, by_digest.get(pin.digest)) for pin in pins
        ]
    needed = _digests(kept, wanted, allowed, loaded)
    return _AdapterPlan(
        wanted=tuple(wanted),
        missing=missing,
        ignored=ignored,
        needed=needed,
        concerned=needed | _digests(last),
        serving=release.digest if release else None,
    )


def _wanted(name: str, pin: Pin, default: bool, last: WantedAdapter | None) -> WantedAdapter:
    """Return the entry for a version. If nothing changed, it is the same object as before."""
    path = f"{PACKAGES}/{hex_of(pin.digest)}"
    if last and (last.version, last.path, last.default) == (pin.version, path, default):
        return last
    return WantedAdapter(
        name=name, version=pin.version, digest=pin.digest, path=path, default=default
    )


def _default(
    release: Release, pins: list[Pin], last: WantedAdapter | None, loaded: Collection[HeldAdapter]
) -> str | None:
    """Return the digest of the default: the released version if ready, else the last valid one."""
    states = _states(loaded)
    ready = [pin.digest for pin in pins if states.get(pin.digest) == "ready"]
    if release.digest in ready:
        return release.digest
    if last is not None and states.get(last.digest) == "ready":
        return last.digest
    usable = [pin.digest for pin in pins if states.get(pin.digest) != "failed"]
    return next(iter([*(d for d in usable if d == release.digest), *ready, *usable]), None)


def _served_before(release: Release, pins: list[Pin], others: list[WantedAdapter]) -> list[Pin]:
    """Return versions of the last list that the release does not contain.

    `helm rollback` writes an old release again, which does not contain the version that it
    replaces. The replica keeps this version, so that rolling forward does not depend on the
    registry either. The result does not include the previous versions in the release.
    """
    known = {release.digest, *(pin.digest for pin in (*pins, *release.previous))}
    return [
        Pin(version=version.version, digest=version.digest)
        for version in others
        if version.digest not in known
    ][:SERVED]


def _still_serving(pins: list[Pin], others: list[WantedAdapter], default: str | None) -> list[Pin]:
    """Return the last valid version, unless the release names it or another has replaced it."""
    last = default_of(others)
    if last is None or last.digest != default or any(pin.digest == default for pin in pins):
        return []
    return [Pin(version=last.version, digest=last.digest)]


def _states(adapters: Iterable[HeldAdapter]) -> dict[str, str]:
    """Return the states by digest. If two entries have the same digest, a ready entry wins."""
    ordered = sorted(adapters, key=lambda adapter: adapter.state == "ready")
    return {adapter.digest: adapter.state for adapter in ordered}


def _digests(*groups: Iterable[Pin | WantedAdapter | HeldAdapter]) -> frozenset[str]:
    return frozenset(version.digest for group in groups for version in group)


def _base(inputs: PlanInputs) -> tuple[str, str | None]:
    return (inputs.loaded.base, inputs.loaded.vae)
