"""Which version of an adapter a call goes to: releases say what should serve, replicas what can.

An adapter moves to its release's version only when every live replica reports that digest as
ready; until then it stays where it was, as replicas come and go. A gateway that does not know
where that is asks the gateways beside it, and then the replicas. A version that is named, or takes
a canary's share, needs only one replica that has it ready. Every call names its version, so one
answer never mixes two. Where calls go is told, so that whoever released a version can wait for it.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from starlette.concurrency import run_in_threadpool

from atelier.contract.gateway import Routed
from atelier.contract.replica import Replica, drawn_with, ready
from atelier.data.manifest import Manifest
from atelier.data.names import hex_of
from atelier.data.release import Release
from atelier.errors import AtelierError, BadInput, ReleaseError, Unavailable
from atelier.stores.environment import Environment, Released
from services.gateway.balance import Fleet, place_of
from services.gateway.reporter import Reporter

logger = logging.getLogger(__name__)

RETRY_AFTER = 1.0  # seconds; loading a version takes about that
NAMED = 20  # how many names an error lists before it only counts them


class UnreleasedAdapter(BadInput):
    """An adapter, or a version of one, that is not served here."""

    def __init__(self, text: str, known: Iterable[str]) -> None:
        names = sorted(known)
        self.known = names[:NAMED]
        listed = ", ".join(self.known) or "none"
        more = len(names) - NAMED
        super().__init__(f"{text}; known: {listed}{f' and {more} more' if more > 0 else ''}")


class AdapterLoading(Unavailable):
    """Released, but no version of it that may serve is ready yet."""


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


ManifestOf = Callable[[str], Manifest | None]  # by digest
ServedBeside = Callable[[str], Collection[str]]  # digests by adapter, of the other gateways


def decide(
    release: Release,
    replicas: Sequence[Replica],
    manifest_of: ManifestOf,
    last: Route | None,
    served_beside: ServedBeside,
) -> Route:
    """The adapter's route from what is known now and where it went before."""
    if not any(replica.live() for replica in replicas):
        # Reports that stop say nothing about the engine: go on as before.
        return Route(
            release,
            last.serving if last else None,
            last.at_hand if last else {},
            last.canary if last else None,
            "no replica has reported for some seconds",
        )
    fitting = [one for one in replicas if one.live() and release.fits(one)]
    at_hand = _at_hand(release.adapter, fitting, manifest_of)
    by_digest = {one.digest: one for one in at_hand.values()}
    target = by_digest.get(release.digest)
    canary = by_digest.get(release.canary.digest) if release.canary else None
    if target and ready(fitting, release.adapter, release.digest):
        return Route(release, target, at_hand, canary)
    serving = last.serving if last else None
    if serving is None:
        serving = _first(release, fitting, by_digest, served_beside(release.adapter))
    return Route(release, serving, at_hand, canary, _trouble(release, replicas))


def _at_hand(name: str, replicas: Iterable[Replica], manifest_of: ManifestOf) -> dict[int, Version]:
    """The versions that any of the replicas holds ready."""
    pins = {
        (held.version, held.digest)
        for one in replicas
        for held in one.adapters
        if (held.name, held.state) == (name, "ready")
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
        if any((held.name, held.state) == (release.adapter, "ready") for held in one.adapters)
    ]
    shared = [one for one in (release.digest, *past) if ready(holders, release.adapter, one)]
    unmoved_first = sorted(beside, key=lambda digest: digest == release.digest)
    order = (*unmoved_first, *shared, *past, release.digest)
    return next((by_digest[digest] for digest in order if digest in by_digest), None)


def _trouble(release: Release, replicas: Sequence[Replica]) -> str:
    """Why the release's version does not serve, in the replicas' own words."""
    live = [one for one in replicas if one.live()]
    if not any(map(release.fits, live)):
        served = drawn_with(live[0].base, live[0].vae) if live else "nothing"
        return f"it is for {drawn_with(release.base, release.vae)}; served is {served}"
    for one in filter(release.fits, live):
        held = one.holds(release.adapter, release.digest)
        if held is None or held.state != "ready":
            reason = (held and held.error) or one.error or "not loaded yet"
            return f"version {release.version} on replica {one.replica}: {reason}"
    return f"the package of version {release.version} cannot be read"


class ReleaseWatch:
    """Looks at releases and replicas every `poll` seconds and keeps the routes."""

    def __init__(
        self,
        environment: Environment,
        *,
        poll: float,
        name: str = "gateway",
    ) -> None:
        self._environment = environment
        self._reporter = Reporter(environment.gateways, name)
        self._poll = poll
        self._good: dict[str, Release] = {}  # by adapter, as it could be read last
        self._manifests: dict[str, Manifest] = {}
        self._said: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self.routes: Mapping[str, Route] = {}
        self.replicas: tuple[Replica, ...] = ()  # the live ones
        self.fleet = Fleet()

    def resolve(self, name: str, version: int | None = None, *, caller: str = "") -> Version:
        """The version that a call of `name` (or `name@version`) goes to; `caller` is its key's."""
        route = self.routes.get(name)
        if route is None:
            near = difflib.get_close_matches(name, self.routes, n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            raise UnreleasedAdapter(f"adapter {name!r} is not served here{hint}", self.routes)
        if version is not None:
            if version not in route.at_hand:
                known = [f"{name}@{one}" for one in route.at_hand]
                raise UnreleasedAdapter(f"adapter {name}: version {version} is not at hand", known)
            return route.at_hand[version]
        picked = route.pick(caller)
        if picked is None:
            text = f"adapter {name} is not ready: {route.trouble}"
            raise AdapterLoading(text, retry_after=RETRY_AFTER)
        return picked

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(self._poll)
            try:
                await self.refresh()
            except Exception:  # one bad look must not end all later ones
                logger.exception("looking at the releases failed; the last routes stay")

    async def refresh(self) -> None:
        await run_in_threadpool(self.look)

    def look(self) -> None:
        """Read what changed and decide every route anew."""
        with self._lock:
            troubles: list[str] = []
            releases = self._released(troubles)
            replicas = self._environment.replicas.live()

            def manifest_of(digest: str) -> Manifest | None:
                return self._manifest(digest, troubles)

            gateways = cache(self._environment.gateways.live)  # read only where one has to know

            def served_beside(name: str) -> set[str]:
                told = [one.routes.get(name) for one in gateways()]
                return {one.serving for one in told if one and one.serving}

            routes = {
                name: decide(release, replicas, manifest_of, self.routes.get(name), served_beside)
                for name, release in releases.items()
            }
            self._log_changes(routes)
            for trouble in sorted(set(troubles) - self._said):  # each once, not at every look
                logger.warning("%s", trouble)
            self._said = frozenset(troubles)
            self._forget_manifests(routes)
            self.routes, self.replicas = routes, replicas
            self.fleet = Fleet(replicas, self._environment.shares())
            self._reporter.tell({name: _routed(route) for name, route in routes.items()})

    def close(self) -> None:
        """Say no more where calls go."""
        with self._lock:
            self._reporter.close()

    def _released(self, troubles: list[str]) -> dict[str, Release]:
        """Every release; one that cannot be read stays what it was."""
        try:
            found = self._environment.releases.read()
        except (AtelierError, OSError) as error:
            found = Released(self._good, trouble=str(error))
        if found.trouble:
            troubles.append(f"going on with the releases known last: {found.trouble}")
        troubles += [f"{why}; the last good release stays" for why in found.unreadable.values()]
        kept = {name: self._good[name] for name in found.unreadable if name in self._good}
        self._good = dict(sorted({**found.releases, **kept}.items()))
        return self._good

    def _manifest(self, digest: str, troubles: list[str]) -> Manifest | None:
        """The verified manifest of a package, None where it is not there."""
        if digest not in self._manifests:
            try:
                found = self._environment.releases.manifest(digest)
            except ReleaseError as error:
                troubles.append(str(error))
                return None
            if found is None:
                return None
            self._manifests[digest] = found
        return self._manifests[digest]

    def _forget_manifests(self, routes: Mapping[str, Route]) -> None:
        used = {
            one.digest
            for route in routes.values()
            for one in (*route.at_hand.values(), route.serving, route.canary)
            if one
        }
        self._manifests = {digest: self._manifests[digest] for digest in used}

    def _log_changes(self, routes: Mapping[str, Route]) -> None:
        for name in sorted({*routes, *self.routes}):
            old, new = self.routes.get(name), routes.get(name)
            if _label(old) != _label(new):
                logger.info("adapter %s: %s -> %s", name, _label(old), _label(new))
            if new and new.trouble and (old is None or old.trouble != new.trouble):
                logger.warning("adapter %s: %s", name, new.trouble)


def _routed(route: Route) -> Routed:
    return Routed(
        serving=route.serving.digest if route.serving else None,
        canary=route.canary.digest if route.canary else None,
    )


def _label(route: Route | None) -> str:
    if route is None:
        return "not released"
    one = route.serving
    return f"version {one.version} ({hex_of(one.digest)[:12]})" if one else "nothing ready"


def parse_reference(text: str) -> tuple[str, int | None]:
    """`name` or `name@version`; ValueError otherwise."""
    name, at, version = text.partition("@")
    if not name or (at and not (version.isascii() and version.isdigit() and int(version) > 0)):
        raise ValueError(f"{text!r} is neither name nor name@version")
    return name, int(version) if at else None
