"""Keep the routes current: poll the releases and the reports of the replicas.

`routing.py` decides each route. Every call names its version, so the images of one response are
never from different versions. The gateway reports its routes, so that a promotion can wait until
its version serves.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice

from starlette.concurrency import run_in_threadpool

from atelier.contract.gateway import Routed
from atelier.contract.replica import Replica
from atelier.contract.shards import Shards
from atelier.data.manifest import Manifest
from atelier.data.names import hex_of, nearest
from atelier.data.release import Release
from atelier.errors import AtelierError, BadInput, ReleaseError, Unavailable
from atelier.stores.environment import Environment, Released
from services.gateway.balance import Fleet
from services.gateway.observed import Observed, OtherGateways
from services.gateway.reasons import reason_for_clients
from services.gateway.reporter import Reporter
from services.gateway.routing import Route, Version, decide

logger = logging.getLogger(__name__)

RETRY_AFTER = 1.0  # seconds; the typical time to load a version
NAMED = 20  # number of names that an error lists; it counts the others
RETRIED = 256  # routes that a poll decides again because a manifest was missing


class UnreleasedAdapter(BadInput):
    """The gateway does not serve the adapter or its version. `known` lists available names."""

    def __init__(self, text: str, known: Iterable[str]) -> None:
        names = list(known)
        self.known = heapq.nsmallest(NAMED, names)
        listed = ", ".join(self.known) or "none"
        more = len(names) - NAMED
        super().__init__(f"{text}; available: {listed}{f' and {more} more' if more > 0 else ''}")


class AdapterLoading(Unavailable):
    """The adapter is released, but none of its versions is ready to serve yet."""


class ReleaseWatch:
    """Read releases and replicas every `poll` seconds, and keep the routes of all adapters.

    A poll decides the route of an adapter again if its release or its versions on a live replica
    have changed since the last poll. If a replica has started or ended, the poll decides all routes
    again.
    """

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
        self._released = Released()  # at the last poll
        self._valid: Shards[Release] = Shards()  # the last readable release of each adapter
        self._observed = Observed()
        self._others: OtherGateways | None = None  # read only while a route depends on it
        self._unserved: set[str] = set()  # adapters without a serving version
        self._incomplete: dict[str, None] = {}  # adapters with a missing manifest, in order
        self._routed: Shards[Routed] = Shards()
        self._logged: frozenset[str] = frozenset()  # problems of the last poll
        self._lock = threading.Lock()
        self.routes: Mapping[str, Route] = {}
        self.replicas: Sequence[Replica] = ()  # the live replicas
        self.fleet = Fleet()

    def resolve(self, name: str, version: int | None = None, *, caller: str = "") -> Version:
        """Return the version that serves a call of the adapter `name`.

        If `version` is given, return this version. Otherwise `caller`, the id of the key, decides
        whether the canary serves the call. Raises UnreleasedAdapter if the adapter or the version
        is not served, and AdapterLoading if no version is ready.
        """
        route = self.routes.get(name)
        if route is None:
            near = nearest(name, self.routes)
            hint = f" (did you mean {near}?)" if near else ""
            raise UnreleasedAdapter(f"adapter {name!r} is not served here{hint}", self.routes)
        if version is not None:
            if version not in route.at_hand:
                known = [f"{name}@{number}" for number in route.at_hand]
                text = f"adapter {name}: version {version} is not ready on any replica"
                raise UnreleasedAdapter(text, known)
            return route.at_hand[version]
        serving = route.pick(caller)
        if serving is None:
            reason = reason_for_clients(route.release, self.replicas)
            raise AdapterLoading(f"adapter {name} is not ready: {reason}", retry_after=RETRY_AFTER)
        return serving

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await asyncio.sleep(self._poll)
            try:
                await self.refresh()
            except Exception:  # a failed poll must not end the polling
                logger.exception("the routes cannot be updated; the last routes stay in use")

    async def refresh(self) -> None:
        """Poll once, without blocking the event loop."""
        await run_in_threadpool(self.look)

    def look(self) -> None:
        """Poll once: read releases and reports, and decide the routes that changes affect."""
        with self._lock:
            troubles: list[str] = []
            now = Observed(self._releases(troubles), self._environment.replicas.live())
            due = self._due(now)
            routes = self._decided(due, now, troubles) if due else self.routes
            self._log_changes(due, routes)
            for trouble in sorted(
                set(troubles) - self._logged
            ):  # log each problem once, not at each poll
                logger.warning("%s", trouble)
            self._logged = frozenset(troubles)
            self._observed = now
            self.routes, self.replicas = routes, now.replicas
            self.fleet = Fleet(now.replicas, self._environment.shares())
            decided = {name: routes.get(name) for name in due}
            self._routed = self._routed.replaced(
                {name: _routed(route) if route else None for name, route in decided.items()}
            )
            self._reporter.publish(self._routed)

    def close(self) -> None:
        """Remove the report of this gateway."""
        with self._lock:
            self._reporter.close()

    def _releases(self, troubles: list[str]) -> Shards[Release]:
        """Return all releases. An unreadable release is replaced by its last readable state."""
        last = self._released
        try:
            now = self._environment.releases.read()
        except (AtelierError, OSError) as error:
            now = Released(self._valid, trouble=str(error))
        if now.trouble:
            troubles.append(f"releases: {now.trouble}; the last readable releases stay in use")
        troubles += [
            f"{why}; the last valid release stays in use" for why in now.unreadable.values()
        ]
        if now.releases is not last.releases or now.unreadable != last.unreadable:
            kept = {name: self._valid[name] for name in now.unreadable if name in self._valid}
            self._valid = now.releases.replaced(kept)
        self._released = now
        return self._valid

    def _due(self, now: Observed) -> set[str]:
        """Return the adapters whose routes must be decided again."""
        due = now.changed(self._observed)
        if now.errors() != self._observed.errors():  # `Route.trouble` quotes these errors
            due |= {name for name, route in self.routes.items() if route.trouble}
        due.update(islice(self._incomplete, RETRIED))
        last, self._others = self._others, None
        if self._unserved:
            self._others = OtherGateways(self._environment.gateways.live())
            if last is None or not self._others.same(last):
                due |= self._unserved
        return due

    def _decided(
        self, due: Collection[str], now: Observed, troubles: list[str]
    ) -> Mapping[str, Route]:
        """Return all routes. The routes of the adapters in `due` are decided again."""
        routes = dict(self.routes)
        at = time.time()
        for name in due:
            release, last = now.releases.get(name), routes.pop(name, None)
            self._unserved.discard(name)
            self._incomplete.pop(name, None)
            if release is None:
                continue
            manifest_of = partial(self._manifest, name, last, troubles)
            route = decide(release, now.replicas, manifest_of, last, self._served_elsewhere, now=at)
            routes[name] = route
            if route.serving is None:
                self._unserved.add(name)
        return routes

    def _served_elsewhere(self, name: str) -> set[str]:
        if self._others is None:
            self._others = OtherGateways(self._environment.gateways.live())
        return self._others.serving(name)

    def _manifest(
        self, name: str, last: Route | None, troubles: list[str], digest: str
    ) -> Manifest | None:
        """Return the verified manifest of a package, or None. A later poll tries again."""
        manifest = last.manifest(digest) if last else None
        if manifest is not None:
            return manifest
        try:
            manifest = self._environment.releases.manifest(digest)
        except ReleaseError as error:
            troubles.append(str(error))
        if manifest is None:
            self._incomplete[name] = None
        return manifest

    def _log_changes(self, names: Collection[str], routes: Mapping[str, Route]) -> None:
        for name in sorted(names):
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
    version = route.serving
    if version is None:
        return "no version ready"
    return f"version {version.version} ({hex_of(version.digest)[:12]})"


def parse_reference(text: str) -> tuple[str, int | None]:
    """Split `name` or `name@version` into name and version. Raises ValueError for other texts."""
    name, at, version = text.partition("@")
    if not name or (at and not (version.isascii() and version.isdigit() and int(version) > 0)):
        raise ValueError(f"{text!r} is neither name nor name@version, with a version from 1 on")
    return name, int(version) if at else None
