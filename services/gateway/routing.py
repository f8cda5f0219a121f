"""Where calls of one adapter go: decisions only, no file, no network.

An adapter moves to its release's version only when every live replica reports that digest as
ready; until then it stays where it was, as replicas come and go. A gateway that does not know
where that is asks the gateways beside it, and then the replicas. A version that is named, or takes
a canary's share, needs only one replica that has it ready.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from atelier.contract.replica import HeldAdapter, Replica, drawn_with, ready
from atelier.data.manifest import Manifest
from atelier.data.release import Release
from services.gateway.balance import place_of


@dataclass(frozen=True)
class Version:
    """One version of an adapter that can be called."""

    name: str
    version: int
    digest: str
    manifest: Manifest


@dataclass(frozen=True)
class Route:
    """Where calls of one adapter go."""

    release: Release
    serving: Version | None
    at_hand: Mapping[int, Version] = field(default_factory=dict)
    canary: Version | None = None
    trouble: str = ""  # why not every replica can serve the release's own version

    def pick(self, caller: str) -> Version | None:
        """The version for a key's calls: always the same, as long as the canary's share is.

        Each adapter draws anew, so that not the same keys try out everything.
        """
        percent = self.release.canary.percent if self.release.canary else 0
        tries = percent > place_of(f"{self.release.adapter}/{caller}")
        return self.canary if self.canary and tries else self.serving

    def manifest(self, digest: str) -> Manifest | None:
        """The manifest of one of its versions."""
        versions = (*self.at_hand.values(), self.serving, self.canary)
        return next((one.manifest for one in versions if one and one.digest == digest), None)


ManifestOf = Callable[[str], Manifest | None]  # by digest
ServedBeside = Callable[[str], Collection[str]]  # digests by adapter, of the other gateways


def decide(
    release: Release,
    replicas: Sequence[Replica],
    manifest_of: ManifestOf,
    last: Route | None,
    served_beside: ServedBeside,
    *,
    now: float,
) -> Route:
    """The adapter's route from what is known at the time `now` and where it went before."""
    live = [one for one in replicas if one.live(now)]
    if not live:
        # Reports that stop say nothing about the engine: go on as before.
        return Route(
            release,
            last.serving if last else None,
            last.at_hand if last else {},
            last.canary if last else None,
            "no replica has reported for some seconds",
        )
    fitting = [one for one in live if release.fits(one)]
    at_hand = _at_hand(release.adapter, fitting, manifest_of)
    by_digest = {one.digest: one for one in at_hand.values()}
    target = by_digest.get(release.digest)
    canary = by_digest.get(release.canary.digest) if release.canary else None
    if target and ready(fitting, release.adapter, release.digest, now=now):
        return Route(release, target, at_hand, canary)
    serving = last.serving if last else None
    if serving is None:
        serving = _first(release, fitting, by_digest, served_beside(release.adapter), now)
    return Route(
        release, serving, at_hand, canary, why_not_served(release, live, fitting, _own_words)
    )


def _at_hand(name: str, replicas: Iterable[Replica], manifest_of: ManifestOf) -> dict[int, Version]:
    """The versions that any of the replicas holds ready."""
    pins = {
        (held.version, held.digest)
        for one in replicas
        for held in one.adapters.named(name)
        if held.state == "ready"
    }
    found: dict[int, Version] = {}
    for version, digest in sorted(pins):
        manifest = manifest_of(digest)
        if manifest:
            found[version] = Version(name, version, digest, manifest)
    return found


def _first(
    release: Release,
    replicas: Iterable[Replica],
    by_digest: Mapping[str, Version],
    beside: Collection[str],
    now: float,
) -> Version | None:
    """What serves where this gateway has not yet sent a call; None where nothing may.

    Calls must neither run ahead of the gateways beside it nor fall behind them, so it goes where
    they go. Without any, it takes the newest that every replica holds, of those that have loaded
    something; failing that, one that served before, and the release's own where it is the only one.
    """
    past = [one.digest for one in release.previous if not one.withdrawn]
    holders = [
        one
        for one in replicas
        if any(held.state == "ready" for held in one.adapters.named(release.adapter))
    ]
    name = release.adapter
    shared = [one for one in (release.digest, *past) if ready(holders, name, one, now=now)]
    unmoved_first = sorted(beside, key=lambda digest: digest == release.digest)
    order = (*unmoved_first, *shared, *past, release.digest)
    return next((by_digest[digest] for digest in order if digest in by_digest), None)


def why_not_served(
    release: Release,
    live: Sequence[Replica],
    fitting: Sequence[Replica],
    reason: Callable[[Replica, HeldAdapter | None], str],
) -> str:
    """Why the release's version does not serve.

    `fitting` are those of the `live` replicas that draw with the release's base and VAE; there is
    at least one live replica. `reason` describes the first that does not hold the version ready.
    """
    if not fitting:
        served = drawn_with(live[0].base, live[0].vae)
        return f"it is for {drawn_with(release.base, release.vae)}; served is {served}"
    for replica in fitting:
        held = replica.holds(release.adapter, release.digest)
        if held is None or held.state != "ready":
            return (
                f"version {release.version} on replica {replica.replica}: {reason(replica, held)}"
            )
    return f"the package of version {release.version} cannot be read"


def _own_words(replica: Replica, held: HeldAdapter | None) -> str:
    """The replica's own error, which may name addresses and files."""
    return (held and held.error) or replica.error or "not loaded yet"
