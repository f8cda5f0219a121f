"""Decide the version that serves the calls of an adapter. This module does no I/O.

The route of an adapter changes to the version of its release when every live replica reports the
digest of this version as ready. Until then the route keeps its version, even if replicas start or
end. A gateway that has not served the adapter yet uses the version of the other gateways, or else a
version that the replicas report as ready. A pinned version or a canary serves as soon as one
replica reports it as ready.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from atelier.contract.replica import HeldAdapter, Replica, base_label, ready
from atelier.contract.reports import LIVE_SECONDS
from atelier.data.manifest import Manifest
from atelier.data.release import Release
from services.gateway.balance import place_of

NO_REPORT = f"no replica has reported in the last {LIVE_SECONDS:g} s"


@dataclass(frozen=True)
class Version:
    """A version of an adapter that can be called."""

    name: str
    version: int
    digest: str
    manifest: Manifest


@dataclass(frozen=True)
class Route:
    """The versions that serve the calls of one adapter."""

    release: Release
    serving: Version | None
    at_hand: Mapping[int, Version] = field(default_factory=dict)  # ready on at least one replica
    canary: Version | None = None
    trouble: str = ""  # the reason why a replica cannot serve the release's version

    def pick(self, caller: str) -> Version | None:
        """Return the version for the calls of a key.

        It does not change while the canary percentage stays the same. The hash includes the name of
        the adapter, so that each canary gets a different set of keys.
        """
        percent = self.release.canary.percent if self.release.canary else 0
        in_canary = percent > place_of(f"{self.release.adapter}/{caller}")
        return self.canary if self.canary and in_canary else self.serving

    def manifest(self, digest: str) -> Manifest | None:
        """Return the manifest of the version with a digest, or None if the route has none."""
        versions = (*self.at_hand.values(), self.serving, self.canary)
        return next((v.manifest for v in versions if v and v.digest == digest), None)


ManifestOf = Callable[[str], Manifest | None]  # by digest
ServedElsewhere = Callable[[str], Collection[str]]  # digests that other gateways serve, by adapter


def decide(
    release: Release,
    replicas: Sequence[Replica],
    manifest_of: ManifestOf,
    last: Route | None,
    served_elsewhere: ServedElsewhere,
    *,
    now: float,
) -> Route:
    """Return the route of the adapter of a release at the time `now`; `last` is its last route."""
    live = [replica for replica in replicas if replica.live(now)]
    if not live:
        # The engines may still run although they do not report, so the route does not change.
        return Route(
            release,
            last.serving if last else None,
            last.at_hand if last else {},
            last.canary if last else None,
            NO_REPORT,
        )
    fitting = [replica for replica in live if release.fits(replica)]
    at_hand = _at_hand(release.adapter, fitting, manifest_of)
    by_digest = {version.digest: version for version in at_hand.values()}
    target = by_digest.get(release.digest)
    canary = by_digest.get(release.canary.digest) if release.canary else None
    if target and ready(fitting, release.adapter, release.digest, now=now):
        return Route(release, target, at_hand, canary)
    serving = last.serving if last else None
    if serving is None:
        elsewhere = served_elsewhere(release.adapter)
        serving = _first(release, fitting, by_digest, elsewhere, now)
    trouble = why_not_served(release, live, fitting, _error_of)
    return Route(release, serving, at_hand, canary, trouble)


def _at_hand(name: str, replicas: Iterable[Replica], manifest_of: ManifestOf) -> dict[int, Version]:
    """Return the versions that at least one replica reports as ready, by number."""
    pins = {
        (held.version, held.digest)
        for replica in replicas
        for held in replica.adapters.named(name)
        if held.state == "ready"
    }
    versions: dict[int, Version] = {}
    for number, digest in sorted(pins):
        manifest = manifest_of(digest)
        if manifest:
            versions[number] = Version(name, number, digest, manifest)
    return versions


def _first(
    release: Release,
    replicas: Iterable[Replica],
    by_digest: Mapping[str, Version],
    elsewhere: Collection[str],
    now: float,
) -> Version | None:
    """Return the version that serves an adapter that this gateway has not served yet, or None.

    The first of these versions that is ready serves:

    1. a version that other gateways serve, so that all gateways serve the same version;
    2. the newest version that is ready on every replica with a ready version of this adapter;
    3. a previous version of the release;
    4. the version of the release.
    """
    name = release.adapter
    past = [pin.digest for pin in release.previous if not pin.withdrawn]
    holders = [
        replica
        for replica in replicas
        if any(held.state == "ready" for held in replica.adapters.named(name))
    ]
    shared = [digest for digest in (release.digest, *past) if ready(holders, name, digest, now=now)]
    # Versions of gateways that do not serve the release's version yet come first.
    unmoved_first = sorted(elsewhere, key=lambda digest: digest == release.digest)
    order = (*unmoved_first, *shared, *past, release.digest)
    return next((by_digest[digest] for digest in order if digest in by_digest), None)


def why_not_served(
    release: Release,
    live: Sequence[Replica],
    fitting: Sequence[Replica],
    reason: Callable[[Replica, HeldAdapter | None], str],
) -> str:
    """Return the reason why the release's version does not serve.

    `live` has at least one replica. `fitting` are the live replicas with the base and VAE of the
    release. `reason` describes the state of the version on the first replica on which it is not
    ready.
    """
    if not fitting:
        served = base_label(live[0].base, live[0].vae)
        return f"it needs {base_label(release.base, release.vae)}, but the replicas run {served}"
    for replica in fitting:
        held = replica.holds(release.adapter, release.digest)
        if held is None or held.state != "ready":
            return (
                f"version {release.version} on replica {replica.replica}: {reason(replica, held)}"
            )
    return f"the package of version {release.version} cannot be read"


def _error_of(replica: Replica, held: HeldAdapter | None) -> str:
    """Return the error in the report of the replica. It may name addresses and files."""
    return (held and held.error) or replica.error or "not loaded yet"
