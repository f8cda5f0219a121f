"""An environment: its releases, and the reports of its replicas and gateways.

On one machine these are folders of the home (`local` in this module); on a cluster they are
ConfigMaps and Leases of the namespace (`atelier.platform`). Agent, gateway and promotions use the
same interface for both.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import ValidationError

from atelier.contract.gateway import Gateway, GatewayFolder
from atelier.contract.replica import Replica, ReplicaFolder
from atelier.contract.reports import Report
from atelier.contract.shards import Shards
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
    """The readable releases, and the errors of the unreadable ones, by adapter.

    A release that has not changed is the same object as in the previous reading.
    """

    releases: Shards[Release] = field(default_factory=Shards)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    trouble: str = ""  # why the releases may be out of date


class Releases(Protocol):
    """A source of releases."""

    def read(self) -> Released:
        """Return all releases, as the same object until something changes.

        An unreadable release does not affect the others. Raises AtelierError or OSError if no
        release can be read.
        """
        ...

    def find(self, name: str) -> Release | None:
        """Return an adapter's release, or None. Raises ReleaseError if it is unreadable."""
        ...

    def manifest(self, digest: str) -> Manifest | None:
        """Return the verified manifest of a package, or None if the package is unknown.

        Raises ReleaseError if the manifest does not match the digest.
        """
        ...


class Reports(Protocol[ReportT]):
    """The reports of the processes of one kind."""

    def live(self) -> tuple[ReportT, ...]:
        """Return the reports with a recent heartbeat."""
        ...

    def put(self, report: ReportT) -> None:
        """Publish this process's report."""
        ...

    def remove(self, reporter: str) -> None:
        """Delete the report of a process that has ended."""
        ...


Shares = Callable[[], Mapping[str, int]]  # percent of requests by pool; `stable` gets the rest


@dataclass(frozen=True)
class Environment:
    """The releases, reports and canaries of one environment."""

    releases: Releases
    replicas: Reports[Replica]
    gateways: Reports[Gateway]
    shares: Shares = dict


def local(home: Home) -> Environment:
    """Return the environment of a home on one machine."""
    return Environment(
        releases=LocalReleases(ReleaseFolder(home.releases), home.packages),
        replicas=ReplicaFolder(home.replicas),
        gateways=GatewayFolder(home.gateways),
    )


FEW = 256  # releases that every reading checks, in half a millisecond
SWEEP_SECONDS = 2.0

Stamp = tuple[int, int, int]  # of a file: change time, size, inode


class LocalReleases:
    """The releases in a folder; a file is parsed when it changes.

    If there are more than `FEW` files, they are checked only when the folder has changed and every
    `SWEEP_SECONDS`. Every write of a release changes the folder, but an editor may change a file in
    place.
    """

    def __init__(self, folder: ReleaseFolder, packages: Path | None = None):
        self._folder = folder
        self._packages = packages
        self._files: dict[str, _File] = {}  # by adapter
        self._released = Released()
        self._folder_changed: int | None = None  # its change time at the last sweep
        self._swept = float("-inf")  # time of the last sweep, on the monotonic clock

    def read(self) -> Released:
        """Return all releases; raises OSError if the folder cannot be read."""
        changed = _change_time(self._folder.path)
        due = time.monotonic() - self._swept >= SWEEP_SECONDS
        if len(self._files) <= FEW or due or changed != self._folder_changed:
            self._swept, self._folder_changed = time.monotonic(), changed
            self._sweep()
        return self._released

    def find(self, name: str) -> Release | None:
        """Return an adapter's release, or None. Raises ReleaseError if it is unreadable."""
        return self._folder.get(name)

    def manifest(self, digest: str) -> Manifest | None:
        """Return the manifest of a package on the volume, or None. Raises ReleaseError."""
        if self._packages is None:
            return None
        file = self._packages / hex_of(digest) / "manifest.json"
        try:
            return verified(file.read_bytes(), digest)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ReleaseError(
                f"{file}: cannot be used: {error}; fetch the package again"
            ) from error

    def _sweep(self) -> None:
        """Check every file, and parse those that have changed."""
        files: dict[str, _File] = {}
        for name, stamp in sorted(self._stamps()):
            last = self._files.get(name)
            files[name] = last if last and last.stamp == stamp else self._parsed(name, stamp)
        changes = {
            name: file.release for name, file in files.items() if file is not self._files.get(name)
        }
        changes |= dict.fromkeys(self._files.keys() - files.keys())
        if changes:
            self._released = Released(
                releases=self._released.releases.replaced(changes),
                unreadable={name: file.trouble for name, file in files.items() if file.trouble},
            )
        self._files = files

    def _stamps(self) -> Iterator[tuple[str, Stamp]]:
        """Yield the adapters that have a file, with the stamp of the file."""
        try:
            entries = os.scandir(self._folder.path)
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                name = entry.name.removesuffix(".json")
                if name != entry.name and not name.startswith("."):
                    try:
                        stat = entry.stat()
                    except FileNotFoundError:  # the adapter was retired meanwhile
                        continue
                    yield name, (stat.st_mtime_ns, stat.st_size, stat.st_ino)

    def _parsed(self, name: str, stamp: Stamp) -> "_File":
        try:
            return _File(stamp, release=self._folder.get(name))
        except AtelierError as error:
            return _File(stamp, trouble=str(error))


@dataclass(frozen=True)
class _File:
    """A parsed file: the release, or the error."""

    stamp: Stamp
    release: Release | None = None
    trouble: str = ""


def _change_time(folder: Path) -> int | None:
    """Return the time of the last change of a folder's entries; None if there is no folder."""
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def verified(data: bytes, digest: str) -> Manifest:
    """Parse a manifest. Raises ValueError if it is invalid or has another digest."""
    if sha256_bytes(data) != digest:
        raise ValueError("its digest is different")
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise ValueError(f"it is not a manifest ({summary(error)})") from error
