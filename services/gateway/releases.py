"""Which version of an adapter a call goes to: releases say what should serve, replicas what can.

`routing` decides. Every call names its version, so one answer never mixes two. Where calls go is
reported, so that whoever released a version can wait for it.
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
from services.gateway.observed import Beside, Observed
from services.gateway.reasons import reason_for_clients
from services.gateway.reporter import Reporter
from services.gateway.routing import Route, Version, decide

logger = logging.getLogger(__name__)

RETRY_AFTER = 1.0  # seconds; loading a version takes about that
NAMED = 20  # how many names an error lists before it only counts them
RETRIED = 256  # routes a look decides anew for want of a manifest that was not there


class UnreleasedAdapter(BadInput):
    """An adapter, or a version of one, that is not served here."""

    def __init__(self, text: str, known: Iterable[str]) -> None:
        names = list(known)
        self.known = heapq.nsmallest(NAMED, names)
        listed = ", ".join(self.known) or "none"
        more = len(names) - NAMED
        super().__init__(f"{text}; known: {listed}{f' and {more} more' if more > 0 else ''}")


class AdapterLoading(Unavailable):
    """Released, but no version of it that may serve is ready yet."""


class ReleaseWatch:
    """Looks at releases and replicas every `poll` seconds and keeps the routes.

    A look decides the routes of those adapters whose release, or whose versions on a live replica,
    have changed since the last one. All routes are decided anew when a replica comes or goes.
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
        self._found = Released()  # at the last look
        self._good: Shards[Release] = Shards()  # by adapter, as it could be read last
        self._observed = Observed()
        self._beside: Beside | None = None  # read where this gateway has to know
        self._unserved: set[str] = set()  # adapters that have no version that may serve
        self._incomplete: dict[str, None] = {}  # adapters with a version whose manifest is missing
        self._routed: Shards[Routed] = Shards()
        self._said: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self.routes: Mapping[str, Route] = {}
        self.replicas: Sequence[Replica] = ()  # the live ones
        self.fleet = Fleet()

    def resolve(self, name: str, version: int | None = None, *, caller: str = "") -> Version:
        """The version that a call of `name` (or `name@version`) goes to; `caller` is its key's."""
        route = self.routes.get(name)
        if route is None:
            near = nearest(name, self.routes)
            hint = f", did you mean {near}?" if near else ""
            raise UnreleasedAdapter(f"adapter {name!r} is not served here{hint}", self.routes)
        if version is not None:
            if version not in route.at_hand:
                known = [f"{name}@{one}" for one in route.at_hand]
                raise UnreleasedAdapter(f"adapter {name}: version {version} is not at hand", known)
            return route.at_hand[version]
        picked = route.pick(caller)
        if picked is None:
            reason = reason_for_clients(route.release, self.replicas)
            raise AdapterLoading(f"adapter {name} is not ready: {reason}", retry_after=RETRY_AFTER)
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
        """Read what changed and decide its routes anew."""
        with self._lock:
            troubles: list[str] = []
            now = Observed(self._released(troubles), self._environment.replicas.live())
            due = self._due(now)
            routes = self._decided(due, now, troubles) if due else self.routes
            self._log_changes(due, routes)
            for trouble in sorted(set(troubles) - self._said):  # each once, not at every look
                logger.warning("%s", trouble)
            self._said = frozenset(troubles)
            self._observed = now
            self.routes, self.replicas = routes, now.replicas
            self.fleet = Fleet(now.replicas, self._environment.shares())
            found = {name: routes.get(name) for name in due}
            self._routed = self._routed.replaced(
                {name: _routed(route) if route else None for name, route in found.items()}
            )
            self._reporter.tell(self._routed)

    def close(self) -> None:
        """Say no more where calls go."""
        with self._lock:
            self._reporter.close()

    def _released(self, troubles: list[str]) -> Shards[Release]:
        """Every release; one that cannot be read stays what it was."""
        try:
            found = self._environment.releases.read()
        except (AtelierError, OSError) as error:
            found = Released(self._good, trouble=str(error))
        if found.trouble:
            troubles.append(f"going on with the releases known last: {found.trouble}")
        troubles += [f"{why}; the last good release stays" for why in found.unreadable.values()]
        if found.releases is not self._found.releases or found.unreadable != self._found.unreadable:
            kept = {name: self._good[name] for name in found.unreadable if name in self._good}
            self._good = found.releases.replaced(kept)
        self._found = found
        return self._good

    def _due(self, now: Observed) -> set[str]:
        """The adapters whose routes have to be decided anew."""
        due = now.changed(self._observed)
        if now.errors() != self._observed.errors():  # which are told where a version does not serve
            due |= {name for name, route in self.routes.items() if route.trouble}
        due.update(islice(self._incomplete, RETRIED))
        last, self._beside = self._beside, None
        if self._unserved:
            self._beside = Beside(self._environment.gateways.live())
            if last is None or not self._beside.same(last):
                due |= self._unserved
        return due

    def _decided(
        self, due: Collection[str], now: Observed, troubles: list[str]
    ) -> Mapping[str, Route]:
        """All routes, those of the adapters that are `due` decided anew."""
        routes = dict(self.routes)
        at = time.time()
        for name in due:
            release, last = now.releases.get(name), routes.pop(name, None)
            self._unserved.discard(name)
            self._incomplete.pop(name, None)
            if release is None:
                continue
            manifest_of = partial(self._manifest, name, last, troubles)
            route = decide(release, now.replicas, manifest_of, last, self._served_beside, now=at)
            routes[name] = route
            if route.serving is None:
                self._unserved.add(name)
        return routes

    def _served_beside(self, name: str) -> set[str]:
        if self._beside is None:
            self._beside = Beside(self._environment.gateways.live())
        return self._beside.serving(name)

    def _manifest(
        self, name: str, last: Route | None, troubles: list[str], digest: str
    ) -> Manifest | None:
        """The verified manifest of a package, None where it is not there; then it is looked for
        again."""
        known = last.manifest(digest) if last else None
        if known is not None:
            return known
        try:
            found = self._environment.releases.manifest(digest)
        except ReleaseError as error:
            troubles.append(str(error))
            found = None
        if found is None:
            self._incomplete[name] = None
        return found

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
    one = route.serving
    return f"version {one.version} ({hex_of(one.digest)[:12]})" if one else "nothing ready"


def parse_reference(text: str) -> tuple[str, int | None]:
    """`name` or `name@version`; ValueError otherwise."""
    name, at, version = text.partition("@")
    if not name or (at and not (version.isascii() and version.isdigit() and int(version) > 0)):
        raise ValueError(f"{text!r} is neither name nor name@version")
    return name, int(version) if at else None
