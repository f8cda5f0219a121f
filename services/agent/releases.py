"""What is released, read so that one release that cannot be read costs the others nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from atelier.errors import AtelierError
from atelier.release import Release, ReleaseFolder


@dataclass(frozen=True)
class Released:
    """The releases that could be read, and why the others could not, by adapter."""

    releases: Mapping[str, Release] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)


class ReleaseSource(Protocol):
    """Where releases come from: a folder here, ConfigMaps on a cluster."""

    def read(self) -> Released:
        """What is released now; AtelierError or OSError where nothing at all can be said."""
        ...


class LocalReleases:
    """The releases of an environment that is a folder."""

    def __init__(self, folder: ReleaseFolder):
        self._folder = folder

    def read(self) -> Released:
        """Every file by itself."""
        releases: dict[str, Release] = {}
        unreadable: dict[str, str] = {}
        for name in sorted(self._folder.names()):
            try:
                found = self._folder.get(name)
            except AtelierError as error:
                unreadable[name] = str(error)
            else:
                releases |= {name: found} if found else {}
        return Released(releases, unreadable)
