"""The serving versions on this machine, and the number of replicas that have them ready."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from atelier.contract.replica import Replica, ReplicaFolder
from atelier.data.release import Release, ReleaseFolder
from atelier.home import Home

# serving: a replica serves it by default; loaded: a replica holds it beside the default version;
# released: a release pins it, but no replica holds it
Here = Literal["serving", "loaded", "released"]


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

    def state_of(self, name: str, digest: str) -> Here | None:
        """Return whether a package serves here, by the reports of the replicas."""
        held = [replica.holds(name, digest) for replica in self.replicas]
        ready = [entry for entry in held if entry is not None and entry.state == "ready"]
        if ready:
            return "serving" if any(entry.default for entry in ready) else "loaded"
        release = self._by_name.get(name)
        pins = release.served if release else ()
        return "released" if digest in {pin.digest for pin in pins} else None

    @cached_property
    def _by_name(self) -> Mapping[str, Release]:
        return {line.release.adapter: line.release for line in self.releases}


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
