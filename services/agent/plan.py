"""What a replica should hold and do next: decisions only, no file, no network.

A release names the version that serves; the last ones stay beside it so that going back needs
nobody. A version becomes the default only once the engine says that it is ready, so a package that
is bad, or never arrives, leaves the last good one where it is.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from atelier.contract.replica import HeldAdapter, Replica, drawn_with
from atelier.contract.wanted import Wanted, WantedAdapter
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

    wanted: tuple[WantedAdapter, ...]
    fetch: tuple[Named, ...]  # the serving versions first
    prune: tuple[str, ...]  # digests
    ignored: tuple[str, ...]  # releases for another base or VAE, in words
    missing: tuple[Named, ...]  # released, not on the volume yet


def plan(
    releases: Mapping[str, Release],
    *,
    on_volume: Collection[str],
    asked: Wanted,
    loaded: Replica | None,
    unreadable: Collection[str] = (),
    refused: Collection[str] = (),
) -> RoundPlan:
    """The next state, from what is released, what the volume holds, and what the engine says.

    `on_volume` are the digests of the verified packages there. Without any word of the engine its
    base is unknown: then everything stays as it was asked last. So do adapters
    whose release is `unreadable` now. Digests that are `refused` leave the engine even so: it may
    have them from a time when nobody asked for their signatures.
    """
    asked = asked.without(refused)
    if loaded is None:
        return RoundPlan(asked.adapters, fetch=(), prune=(), ignored=(), missing=())
    ours = {name: one for name, one in releases.items() if one.fits(loaded)}
    # a package that is damaged on the volume serves on from memory while it is fetched anew
    in_memory = {one.digest for one in loaded.adapters if one.state == "ready"}
    at_hand = (in_memory | set(on_volume)) - set(refused)
    wanted = [one for one in asked.adapters if one.name in unreadable]
    missing: list[Named] = []
    for name, release in sorted(ours.items()):
        pins = release.kept(KEPT)
        here = [pin for pin in pins if pin.digest in at_hand]
        missing += [Named(name, p.version, p.digest) for p in pins if p.digest not in on_volume]
        here += _still_at_hand(release, here, asked, at_hand)
        default = _default(release, here, asked, loaded)
        here += _still_serving(name, here, asked, at_hand, default)
        wanted += [
            WantedAdapter(
                name=name,
                version=pin.version,
                digest=pin.digest,
                path=f"{PACKAGES}/{hex_of(pin.digest)}",
                default=pin.digest == default,
            )
            for pin in here
        ]
    serving = {(name, one.digest) for name, one in ours.items()}
    return RoundPlan(
        wanted=tuple(wanted),
        fetch=tuple(sorted(missing, key=lambda one: (one.name, one.digest) not in serving)),
        prune=_prunable(releases, on_volume, wanted, asked, loaded),
        ignored=tuple(
            f"release {name} is for {drawn_with(one.base, one.vae)}, "
            f"this replica serves {drawn_with(loaded.base, loaded.vae)}"
            for name, one in sorted(releases.items())
            if name not in ours
        ),
        missing=tuple(missing),
    )


def _default(release: Release, here: list[Pin], asked: Wanted, loaded: Replica) -> str | None:
    """The digest that answers by default: the released one once it is ready, else the last good."""
    last = asked.default(release.adapter)
    ready = [pin.digest for pin in here if _state(loaded, release.adapter, pin.digest) == "ready"]
    failed = [pin.digest for pin in here if _state(loaded, release.adapter, pin.digest) == "failed"]
    if release.digest in ready:
        return release.digest
    if last is not None and _state(loaded, release.adapter, last.digest) == "ready":
        return last.digest
    usable = [pin.digest for pin in here if pin.digest not in failed]
    return next(iter([*(d for d in usable if d == release.digest), *ready, *usable]), None)


def _still_at_hand(
    release: Release, here: list[Pin], asked: Wanted, at_hand: Collection[str]
) -> list[Pin]:
    """The versions asked for before that the release neither names nor lists as its past.

    `helm rollback` writes an old release again, to which the version that it leaves is unknown;
    going forward again needs nobody either. What a release lists as its past has had its time.
    """
    known = {release.digest, *(one.digest for one in (*here, *release.previous))}
    return [
        Pin(version=one.version, digest=one.digest)
        for one in asked.adapters
        if one.name == release.adapter and one.digest not in known and one.digest in at_hand
    ][:SERVED]


def _still_serving(
    name: str, here: list[Pin], asked: Wanted, at_hand: Collection[str], default: str | None
) -> list[Pin]:
    """The last good version, where the release no longer names it but nothing has replaced it."""
    last = asked.default(name)
    if last is None or last.digest != default or last.digest not in at_hand:
        return []
    if any(pin.digest == last.digest for pin in here):
        return []
    return [Pin(version=last.version, digest=last.digest)]


def _prunable(
    releases: Mapping[str, Release],
    on_volume: Collection[str],
    wanted: list[WantedAdapter],
    asked: Wanted,
    loaded: Replica,
) -> tuple[str, ...]:
    """Packages that nobody names: no release, no list that the engine may still follow, no slot."""
    named = {pin.digest for one in releases.values() for pin in one.kept(KEPT)}
    named |= {one.digest for one in (*wanted, *asked.adapters)}
    named |= {held.digest for held in loaded.adapters}
    return tuple(sorted(set(on_volume) - named))


def _state(loaded: Replica, name: str, digest: str) -> str | None:
    held = loaded.holds(name, digest)
    return held.state if held else None


def report(
    loaded: Replica,
    made: RoundPlan,
    *,
    problems: Mapping[str, str],
    passing: Collection[str] = (),
    troubles: Collection[str],
) -> Replica:
    """What the replica tells the others: the engine's own words, and what never reached it.

    `problems` tells by digest why a package is not to be had; where that is `passing`, like a
    registry that is away, the package counts as on its way. `troubles` are about no one package.
    """
    held = {(one.name, one.digest): one for one in loaded.adapters}
    for one in made.missing:
        error = problems.get(one.digest)
        state = "failed" if error and one.digest not in passing else "loading"
        entry = HeldAdapter.model_validate(
            {
                "name": one.name,
                "version": one.version,
                "digest": one.digest,
                "state": state,
                "error": error,
            }
        )
        held.setdefault((one.name, one.digest), entry)
    sentences = [*troubles, *dict.fromkeys(problems.values()), *made.ignored]
    fields = {
        "adapters": tuple(held.values()),
        "error": "; ".join([*([loaded.error] if loaded.error else []), *sentences]) or None,
    }
    return loaded.model_copy(update=fields)
