"""Which versions serve on this machine, and on how many replicas they are ready."""

from collections.abc import Sequence
from dataclasses import dataclass

from atelier.contract.replica import Replica, ReplicaFolder
from atelier.data.release import Release, ReleaseFolder
from atelier.home import Home


@dataclass(frozen=True)
class ReleaseStatus:
    """A release, and the number of live replicas that hold its version ready."""

    release: Release
    ready: int


@dataclass(frozen=True)
class HomeStatus:
    """The releases and the live replicas of one home."""

    releases: tuple[ReleaseStatus, ...]
    replicas: tuple[Replica, ...]


def home_status(home: Home) -> HomeStatus:
    """Read the releases and the replicas' reports; asks no service."""
    replicas = tuple(ReplicaFolder(home.replicas).live())
    releases = ReleaseFolder(home.releases).list().values()
    return HomeStatus(
        tuple(ReleaseStatus(release, _ready(release, replicas)) for release in releases), replicas
    )


def _ready(release: Release, replicas: Sequence[Replica]) -> int:
    held = [replica.holds(release.adapter, release.digest) for replica in replicas]
    return sum(adapter is not None and adapter.state == "ready" for adapter in held)
