"""How far replicas and gateways have followed the release of one adapter, by their reports."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Generic, Literal, TypeVar

from atelier.contract.replica import HeldAdapter, drawn_with
from atelier.contract.reports import Report
from atelier.data.release import Release
from atelier.stores.environment import Environment, Reports

LATELY: Final = 1.0  # seconds for which reports are not asked for again
NOTICED: Final = 1.5  # seconds within which a replica has seen a new release and says so


@dataclass(frozen=True)
class Readiness:
    """How far a release has come: `ready` where every live replica and gateway answers by it.

    `detail` names the processes, for people.
    """

    state: Literal["absent", "loading", "ready", "failed"]
    detail: str


ReportT = TypeVar("ReportT", bound=Report)


class _Lately(Generic[ReportT]):
    """Reports that are asked for at most once a second."""

    def __init__(self, reports: Reports[ReportT], clock: Callable[[], float]):
        self._reports, self._clock = reports, clock
        self._found: tuple[ReportT, ...] = ()
        self._asked = float("-inf")

    def live(self) -> tuple[ReportT, ...]:
        if self._clock() - self._asked >= LATELY:
            self._found, self._asked = self._reports.live(), self._clock()
        return self._found

    def put(self, report: ReportT) -> None:
        self._reports.put(report)

    def remove(self, reporter: str) -> None:
        self._reports.remove(reporter)


def lately(place: Environment, *, clock: Callable[[], float] = time.monotonic) -> Environment:
    """The environment as it was a second ago at most, to ask about many adapters in a row."""
    replicas, gateways = _Lately(place.replicas, clock), _Lately(place.gateways, clock)
    return replace(place, replicas=replicas, gateways=gateways)


def release_readiness(place: Environment, release: Release, *, canary: bool = False) -> Readiness:
    """Ask every live report about the release's version, or about its canary.

    One failure outweighs the rest, then one that still loads. A failure reported before the replica
    can have noticed the release is that of an earlier attempt, and counts as loading.
    """
    name, pin = release.adapter, release.canary if canary and release.canary else release.pin
    live = place.replicas.live()
    mine = [one for one in live if release.fits(one)]
    if not mine:
        other = f"; served is {drawn_with(live[0].base, live[0].vae)}" if live else ""
        return Readiness(
            "absent", f"no live replica of {drawn_with(release.base, release.vae)}{other}"
        )
    held = {one.replica: one.holds(name, pin.digest) for one in mine}
    since = release.since.timestamp() + NOTICED
    noticed = {one.replica: one.heartbeat > since for one in mine}
    failed = [
        f"failed on {who}: {h.error or 'no reason given'}"
        for who, h in held.items()
        if h and h.state == "failed" and noticed[who]
    ]
    if failed:
        return Readiness("failed", "; ".join(failed))
    if waiting := [_waiting(who, h) for who, h in held.items() if h is None or h.state != "ready"]:
        return Readiness("loading", f"not yet ready on {', '.join(waiting)}")
    if not canary and (others := [who for who, h in held.items() if h and not h.default]):
        return Readiness("loading", f"another version still answers on {', '.join(others)}")
    if elsewhere := _routing_elsewhere(place, name, pin.digest, canary=canary):
        return Readiness("loading", f"not yet routed by gateway {', '.join(elsewhere)}")
    return Readiness("ready", f"ready on {', '.join(held)}")


def retirement_readiness(place: Environment, name: str) -> Readiness:
    """Whether anything still answers by an adapter that is no longer released."""
    replicas = [
        one.replica
        for one in place.replicas.live()
        if any(held.default for held in one.adapters.named(name))
    ]
    gateways = [one.gateway for one in place.gateways.live() if name in one.routes]
    if replicas or gateways:
        return Readiness("loading", f"still answering by it: {', '.join(gateways + replicas)}")
    return Readiness("absent", "nothing is released")


def _waiting(replica: str, held: HeldAdapter | None) -> str:
    """A replica that has not followed yet, and what keeps it where it knows."""
    return f"{replica} ({held.error})" if held and held.error else replica


def _routing_elsewhere(place: Environment, name: str, digest: str, *, canary: bool) -> list[str]:
    """The live gateways that do not send the adapter's calls to that digest."""
    found = []
    for one in place.gateways.live():
        route = one.routes.get(name)
        goes_to = route and (route.canary if canary else route.serving)
        if goes_to != digest:
            found.append(one.gateway)
    return found
