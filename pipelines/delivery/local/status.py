"""The serving versions on this machine, and the number of replicas that have them ready."""

from collections.abc import Sequence
from dataclasses import dataclass

from atelier.contract.replica import Replica, ReplicaFolder
from atelier.data.release import Release, ReleaseFolder
from atelier.home import Home


@dataclass(frozen=True)
class ReleaseStatus:
    """A release, and the number of live replicas that have its version ready."""

    release: Release
    ready: int


@dataclass(frozen=True)
class HomeStatus:
    """The releases and the live replicas of one home."""

    releases: tuple[ReleaseStatus, ...]
    replicas: tuple[Replica, ...]


def home_status(home: Home) -> HomeStatus:
    """Read the releases and the replicas' reports from the home; no service is called."""
    replicas = tuple(ReplicaFolder(home.replicas).live())
    releases = ReleaseFolder(home.releases).list().values()
    return HomeStatus(
        tuple(ReleaseStatus(release, _ready(release, replicas)) for release in releases), replicas
    )


def _ready(release: Release, replicas: Sequence[Replica]) -> int:
    entries = [replica.holds(release.adapter, release.digest) for replica in replicas]
    return sum(entry is not None and entry.state == "ready" for entry in entries)
