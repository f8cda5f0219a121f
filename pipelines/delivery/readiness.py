"""Readiness: whether every live replica and gateway serves the release of an adapter.

The readiness is computed from the reports of the replicas and gateways.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Generic, Literal, TypeVar

from atelier.contract.replica import HeldAdapter, base_label
from atelier.contract.reports import Report
from atelier.data.release import Release
from atelier.stores.environment import Environment, Reports

MAX_AGE: Final = 1.0  # seconds for which `cached` uses reports before it reads them again
NOTICED: Final = 1.5  # seconds within which a replica reads a new release and reports it


@dataclass(frozen=True)
class Readiness:
    """The state of a release: `ready` if every live replica and gateway serves it.

    `absent` means that no live replica has its base and VAE, or that a retired adapter is no longer
    served. `detail` names the processes and is meant for people.
    """

    state: Literal["absent", "loading", "ready", "failed"]
    detail: str


ReportT = TypeVar("ReportT", bound=Report)


class _CachedReports(Generic[ReportT]):
    """Reports that are read at most once a second."""

    def __init__(self, reports: Reports[ReportT], clock: Callable[[], float]):
        self._reports, self._clock = reports, clock
        self._cached: tuple[ReportT, ...] = ()
        self._read_at = float("-inf")

    def live(self) -> tuple[ReportT, ...]:
        """Return the live reports, at most MAX_AGE old."""
        if self._clock() - self._read_at >= MAX_AGE:
            self._cached, self._read_at = self._reports.live(), self._clock()
        return self._cached

    def put(self, report: ReportT) -> None:
        """Write a report; the cache is not updated."""
        self._reports.put(report)

    def remove(self, reporter: str) -> None:
        """Remove a report; the cache is not updated."""
        self._reports.remove(reporter)


def cached(environment: Environment, *, clock: Callable[[], float] = time.monotonic) -> Environment:
    """Return the environment with reports that are at most a second old.

    Use it to check many adapters in a row: the reports are not read again for each of them.
    """
    replicas = _CachedReports(environment.replicas, clock)
    gateways = _CachedReports(environment.gateways, clock)
    return replace(environment, replicas=replicas, gateways=gateways)


def release_readiness(
    environment: Environment, release: Release, *, canary: bool = False
) -> Readiness:
    """Return the readiness of the release's version, or of its canary.

    The result is `failed` if one replica failed, else `loading` if one still loads. A failure
    reported before the replica could read the release counts as loading: it belongs to an earlier
    attempt.
    """
    name, pin = release.adapter, release.canary if canary and release.canary else release.pin
    live = environment.replicas.live()
    fitting = [replica for replica in live if release.fits(replica)]
    if not fitting:
        other = f"; they serve {base_label(live[0].base, live[0].vae)}" if live else ""
        return Readiness(
            "absent", f"no live replica serves {base_label(release.base, release.vae)}{other}"
        )
    entries = {replica.replica: replica.holds(name, pin.digest) for replica in fitting}
    since = release.since.timestamp() + NOTICED
    noticed = {replica.replica: replica.heartbeat > since for replica in fitting}
    failed = [
        f"failed on {replica}: {entry.error or 'no reason given'}"
        for replica, entry in entries.items()
        if entry and entry.state == "failed" and noticed[replica]
    ]
    if failed:
        return Readiness("failed", "; ".join(failed))
    waiting = [
        _waiting(replica, entry)
        for replica, entry in entries.items()
        if entry is None or entry.state != "ready"
    ]
    if waiting:
        return Readiness("loading", f"not yet ready on {', '.join(waiting)}")
    others = [replica for replica, entry in entries.items() if entry and not entry.default]
    if others and not canary:
        return Readiness("loading", f"another version still serves on {', '.join(others)}")
    if gateways := _routing_elsewhere(environment, name, pin.digest, canary=canary):
        return Readiness("loading", f"not yet routed by gateway {', '.join(gateways)}")
    return Readiness("ready", f"ready on {', '.join(entries)}")


def retirement_readiness(environment: Environment, name: str) -> Readiness:
    """Return `loading` while a process serves the unreleased adapter, else `absent`."""
    replicas = [
        replica.replica
        for replica in environment.replicas.live()
        if any(entry.default for entry in replica.adapters.named(name))
    ]
    gateways = [
        gateway.gateway for gateway in environment.gateways.live() if name in gateway.routes
    ]
    if replicas or gateways:
        return Readiness("loading", f"still served by {', '.join(gateways + replicas)}")
    return Readiness("absent", "nothing is released")


def _waiting(replica: str, entry: HeldAdapter | None) -> str:
    """Return the replica's name, with the error that it reports."""
    return f"{replica} ({entry.error})" if entry and entry.error else replica


def _routing_elsewhere(
    environment: Environment, name: str, digest: str, *, canary: bool
) -> list[str]:
    """Return the live gateways that do not route the adapter's requests to that digest."""
    elsewhere = []
    for gateway in environment.gateways.live():
        route = gateway.routes.get(name)
        destination = route and (route.canary if canary else route.serving)
        if destination != digest:
            elsewhere.append(gateway.gateway)
    return elsewhere
