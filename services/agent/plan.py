"""What a replica should hold and do next: decisions only, no file, no network.

A release names the version that serves; the last ones stay beside it so that going back needs
nobody. A version becomes the default only once the engine says that it is ready, so a package that
is bad, or never arrives, leaves the last good one where it is. Each adapter is planned by itself,
so a round plans those anew of which something has changed.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from atelier.contract.replica import HeldAdapter, Replica, base_label
from atelier.contract.shards import Shards, Versions
from atelier.contract.wanted import Wanted, WantedAdapter, default_of
from atelier.data.names import hex_of
from atelier.data.release import Pin, Release

PACKAGES = "packages"  # on the volume, which agent and engine may have mounted elsewhere
KEPT = 3  # versions of each release: the present one, its canary, the newest past ones
SERVED = 2  # and versions that were at hand before, where the release does not know them


@dataclass(frozen=True)
class Named:
    """A version of an adapter."""

    name: str
    version: int
    digest: str


@dataclass(frozen=True)
class RoundPlan:
    """What to ask of the engine, what to fetch for it, what to throw away, what to tell."""

    wanted: Versions[WantedAdapter] = field(default_factory=Versions)
    fetch: tuple[Named, ...] = ()  # the serving versions first
    prune: tuple[str, ...] = ()  # digests
    ignored: tuple[str, ...] = ()  # releases for another base or VAE, in words
    missing: Versions[Named] = field(default_factory=Versions)  # released, not on the volume yet


@dataclass(frozen=True)
class Known:
    """What a plan is made from. What has not changed since the last round is the same object.

    `on_volume` are the digests of the verified packages there. Adapters whose release is
    `unreadable` now stay as they were asked last. Digests that are `refused` leave the engine even
    so: it may have them from a time when nobody asked for their signatures.
    """

    loaded: Replica  # what the engine says
    releases: Shards[Release] = field(default_factory=Shards)
    on_volume: Shards[bool] = field(default_factory=Shards)  # the digests are the names
    asked: Wanted = field(default_factory=Wanted)
    unreadable: Collection[str] = ()
    refused: Collection[str] = ()


@dataclass(frozen=True)
class _AdapterPlan:
    """What one adapter asks for, and the digests that this depends on."""

    wanted: tuple[WantedAdapter, ...]
    missing: tuple[Named, ...]
    ignored: str
    needed: frozenset[str]  # that stay on the volume
    concerned: frozenset[str]
    serving: str | None  # the digest that the release wants served


class Planner:
    """Plans round after round; a change costs the plans of its own adapters."""

    def __init__(self) -> None:
        self._known: Known | None = None
        self._plans: dict[str, _AdapterPlan] = {}
        self._adapters: dict[str, set[str]] = {}  # by each digest that concerns them
        self._missing: dict[str, tuple[Named, ...]] = {}
        self._ignored: dict[str, str] = {}
        self._plan = RoundPlan()
        self.planned = 0  # adapters in the last round

    def plan(self, known: Known) -> RoundPlan:
        """The next state, from releases, the volume, and what the engine says."""
        due = self._due(known)
        self.planned = len(due)
        before, self._known = self._known, known
        if before is None:  # what stays as it was asked keeps its objects, too
            self._plan = RoundPlan(wanted=known.asked.adapters)
        arrived = known.on_volume.changed(before.on_volume if before else Shards())
        fresh = {digest for digest in arrived if digest in known.on_volume}
        if not due and not fresh and not self._plan.prune:
            return self._plan
        touched = {*fresh, *self._plan.prune}
        for name in due:
            touched |= self._take_out(name)
            touched |= self._put_in(name, _planned(name, known))
        self._plan = RoundPlan(
            wanted=self._plan.wanted.replaced({name: self._wanted(name) for name in due}),
            fetch=self._fetch() if due else self._plan.fetch,
            prune=tuple(sorted(one for one in touched if self._is_spare(one, known))),
            ignored=tuple(self._ignored[name] for name in sorted(self._ignored)),
            missing=self._plan.missing.replaced({n: self._missing.get(n, ()) for n in due}),
        )
        return self._plan

    def _due(self, known: Known) -> set[str]:
        """The adapters of which something has changed since the last round."""
        last = self._known
        if last is None or _drawn(known) != _drawn(last):
            asked, held = known.asked.adapters.sharded, known.loaded.adapters.sharded
            return {*self._plans, *known.releases, *asked, *held}
        due = known.asked.adapters.changed(last.asked.adapters)
        due |= known.loaded.adapters.changed(last.loaded.adapters)
        due |= set(known.unreadable) ^ set(last.unreadable)
        due |= known.releases.changed(last.releases)
        moved = known.on_volume.changed(last.on_volume)
        for digest in {*moved, *_moved(known.refused, last.refused)}:
            due |= self._adapters.get(digest, set())
        return due

    def _take_out(self, name: str) -> frozenset[str]:
        """Forget an adapter's plan; the digests that concerned it."""
        plan = self._plans.pop(name, None)
        self._missing.pop(name, None)
        self._ignored.pop(name, None)
        for digest in plan.concerned if plan else ():
            adapters = self._adapters[digest]
            adapters.discard(name)
            if not adapters:
                del self._adapters[digest]
        return plan.concerned if plan else frozenset()

    def _put_in(self, name: str, plan: _AdapterPlan) -> frozenset[str]:
        """Count an adapter's plan in; the digests that concern it."""
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
        """What is missing, by name, but the versions that are to serve before all others."""
        missing = [one for name in sorted(self._missing) for one in self._missing[name]]
        serving = {name: self._plans[name].serving for name in self._missing}
        return tuple(sorted(missing, key=lambda one: serving[one.name] != one.digest))

    def _is_spare(self, digest: str, known: Known) -> bool:
        """A package that nobody names: no release, no list that the engine may still follow, no
        slot."""
        adapters = self._adapters.get(digest, ())
        needed = any(digest in self._plans[name].needed for name in adapters)
        return digest in known.on_volume and not needed


def plan(
    releases: Mapping[str, Release],
    *,
    on_volume: Collection[str],
    asked: Wanted,
    loaded: Replica | None,
    unreadable: Collection[str] = (),
    refused: Collection[str] = (),
) -> RoundPlan:
    """A plan made at once, see `Known`. Without any word of the engine its base is unknown: then
    everything stays as it was asked last."""
    if loaded is None:
        return RoundPlan(wanted=asked.without(refused).adapters)
    known = Known(
        loaded=loaded,
        releases=Shards(releases),
        on_volume=Shards(dict.fromkeys(on_volume, True)),
        asked=asked,
        unreadable=unreadable,
        refused=frozenset(refused),
    )
    return Planner().plan(known)


def _planned(name: str, known: Known) -> _AdapterPlan:
    """One adapter's plan."""
    release, held = known.releases.get(name), known.loaded.adapters.named(name)
    all_asked = known.asked.adapters.named(name)
    asked = [one for one in all_asked if one.digest not in known.refused]
    kept = release.kept(KEPT) if release else ()
    wanted: list[WantedAdapter] = []
    missing: tuple[Named, ...] = ()
    ignored = ""
    if release is None:
        wanted = asked if name in known.unreadable else []
    elif not release.fits(known.loaded):
        ignored = (
            f"release {name} is for {base_label(release.base, release.vae)}, "
            f"this replica serves {base_label(known.loaded.base, known.loaded.vae)}"
        )
    else:
        # a package that is damaged on the volume serves on from memory while it is fetched anew
        in_memory = {one.digest for one in held if one.state == "ready"}

        def at_hand(digest: str) -> bool:
            there = digest in in_memory or digest in known.on_volume
            return there and digest not in known.refused

        missing = tuple(
            Named(name, pin.version, pin.digest)
            for pin in kept
            if pin.digest not in known.on_volume
        )
        here = [pin for pin in kept if at_hand(pin.digest)]
        others = [one for one in asked if at_hand(one.digest)]
        here += _still_at_hand(release, here, others)
        default = _default(release, here, default_of(asked), held)
        here += _still_serving(here, others, default)
        known_as = {one.digest: one for one in asked}
        wanted = [
            _wanted(name, pin, pin.digest == default, known_as.get(pin.digest)) for pin in here
        ]
    needed = _digests(kept, wanted, asked, held)
    return _AdapterPlan(
        wanted=tuple(wanted),
        missing=missing,
        ignored=ignored,
        needed=needed,
        concerned=needed | _digests(all_asked),
        serving=release.digest if release else None,
    )


def _wanted(name: str, pin: Pin, default: bool, asked: WantedAdapter | None) -> WantedAdapter:
    """A version to ask for; as it was asked last where that is the same."""
    path = f"{PACKAGES}/{hex_of(pin.digest)}"
    if asked and (asked.version, asked.path, asked.default) == (pin.version, path, default):
        return asked
    return WantedAdapter(
        name=name, version=pin.version, digest=pin.digest, path=path, default=default
    )


def _default(
    release: Release, here: list[Pin], last: WantedAdapter | None, held: Collection[HeldAdapter]
) -> str | None:
    """The digest that answers by default: the released one once it is ready, else the last good."""
    states = _states(held)
    ready = [pin.digest for pin in here if states.get(pin.digest) == "ready"]
    if release.digest in ready:
        return release.digest
    if last is not None and states.get(last.digest) == "ready":
        return last.digest
    usable = [pin.digest for pin in here if states.get(pin.digest) != "failed"]
    return next(iter([*(d for d in usable if d == release.digest), *ready, *usable]), None)


def _still_at_hand(release: Release, here: list[Pin], others: list[WantedAdapter]) -> list[Pin]:
    """The versions asked for before that the release neither names nor lists as its past.

    `helm rollback` writes an old release again, to which the version that it leaves is unknown;
    going forward again needs nobody either. What a release lists as its past has had its time.
    """
    known = {release.digest, *(one.digest for one in (*here, *release.previous))}
    return [
        Pin(version=one.version, digest=one.digest) for one in others if one.digest not in known
    ][:SERVED]


def _still_serving(here: list[Pin], others: list[WantedAdapter], default: str | None) -> list[Pin]:
    """The last good version, where the release no longer names it but nothing has replaced it."""
    last = default_of(others)
    if last is None or last.digest != default or any(pin.digest == default for pin in here):
        return []
    return [Pin(version=last.version, digest=last.digest)]


def _states(held: Iterable[HeldAdapter]) -> dict[str, str]:
    """By digest; where an adapter has two entries of one, a ready one counts."""
    ordered = sorted(held, key=lambda one: one.state == "ready")
    return {one.digest: one.state for one in ordered}


def _digests(*given: Iterable[Pin | WantedAdapter | HeldAdapter]) -> frozenset[str]:
    return frozenset(one.digest for some in given for one in some)


def _drawn(known: Known) -> tuple[str, str | None]:
    return (known.loaded.base, known.loaded.vae)


def _moved(now: Collection[str], before: Collection[str]) -> set[str]:
    """What came or went."""
    return set() if now is before else set(now) ^ set(before)
