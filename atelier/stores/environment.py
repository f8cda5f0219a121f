"""What serves in one place: its releases, and what its replicas and gateways say.

On one machine that is a home's folders (`local` here); on a cluster it is a namespace's ConfigMaps
and Leases (`atelier.platform`). Agent, gateway and promotions ask the same of both.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import ValidationError

from atelier.contract.gateway import Gateway, GatewayFolder
from atelier.contract.replica import Replica, ReplicaFolder
from atelier.contract.reports import Report
from atelier.data.manifest import Manifest
from atelier.data.names import hex_of
from atelier.data.release import Release, ReleaseFolder
from atelier.errors import AtelierError, ReleaseError
from atelier.files import sha256_bytes
from atelier.home import Home
from atelier.validation import summary

ReportT = TypeVar("ReportT", bound=Report)


@dataclass(frozen=True)
class Released:
    """The releases that could be read, and why the others could not, by adapter."""

    releases: Mapping[str, Release] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    trouble: str = ""  # why this is what was known last, and perhaps no longer so


class Releases(Protocol):
    """Where releases come from."""

    def read(self) -> Released:
        """What is released; AtelierError or OSError where nothing at all can be said.

        One release that cannot be read costs the others nothing.
        """
        ...

    def manifest(self, digest: str) -> Manifest | None:
        """The manifest of a package, verified; None where it is not known, ReleaseError where it
        is another one."""
        ...


class Reports(Protocol[ReportT]):
    """What the processes of one kind say."""

    def live(self) -> tuple[ReportT, ...]:
        """Those that were heard of lately."""
        ...

    def put(self, report: ReportT) -> None:
        """Tell one's own."""
        ...

    def remove(self, reporter: str) -> None:
        """Forget a process that has ended."""
        ...


Shares = Callable[[], Mapping[str, int]]  # percent of the calls by pool; the rest is `stable`'s


@dataclass(frozen=True)
class Environment:
    """One place where adapters are served."""

    releases: Releases
    replicas: Reports[Replica]
    gateways: Reports[Gateway]
    shares: Shares = dict


def local(home: Home) -> Environment:
    """The environment that one machine's home is."""
    return Environment(
        releases=LocalReleases(ReleaseFolder(home.releases), home.packages),
        replicas=ReplicaFolder(home.replicas),
        gateways=GatewayFolder(home.gateways),
    )


Stamp = tuple[int, int, int]  # of a file: change time, size, inode


class LocalReleases:
    """The releases of an environment that is a folder; a file is parsed when it changes."""

    def __init__(self, folder: ReleaseFolder, packages: Path | None = None):
        self._folder = folder
        self._packages = packages
        self._read: dict[str, tuple[Stamp, Release]] = {}

    def read(self) -> Released:
        releases: dict[str, Release] = {}
        unreadable: dict[str, str] = {}
        for name in sorted(self._folder.names()):
            try:
                found = self._release(name)
            except AtelierError as error:
                unreadable[name] = str(error)
            else:
                releases |= {name: found} if found else {}
        self._read = {name: self._read[name] for name in releases}
        return Released(releases, unreadable)

    def manifest(self, digest: str) -> Manifest | None:
        if self._packages is None:
            return None
        file = self._packages / hex_of(digest) / "manifest.json"
        try:
            return verified(file.read_bytes(), digest)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ReleaseError(f"{file} cannot be used: {error}") from error

    def _release(self, name: str) -> Release | None:
        """None where it was retired while we looked."""
        try:
            stat = (self._folder.path / f"{name}.json").stat()
        except FileNotFoundError:
            return None
        stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if name not in self._read or self._read[name][0] != stamp:
            release = self._folder.get(name)
            if release is None:
                return None
            self._read[name] = (stamp, release)
        return self._read[name][1]


def verified(data: bytes, digest: str) -> Manifest:
    """A manifest whose bytes have the package's digest; ValueError otherwise."""
    if sha256_bytes(data) != digest:
        raise ValueError("its digest is another one")
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise ValueError(f"it is no manifest ({summary(error)})") from error
