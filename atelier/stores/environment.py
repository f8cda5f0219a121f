"""What serves in one place: its releases, and what its replicas and gateways say.

On one machine that is a home's folders (`local` here); on a cluster it is a namespace's ConfigMaps
and Leases (`atelier.platform`). Agent, gateway and promotions ask the same of both.
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
    """The releases that could be read, and why the others could not, by adapter.

    A release that has not changed is the same object as at the look before.
    """

    releases: Shards[Release] = field(default_factory=Shards)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    trouble: str = ""  # why this is what was known last, and perhaps no longer so


class Releases(Protocol):
    """Where releases come from."""

    def read(self) -> Released:
        """What is released; AtelierError or OSError where nothing at all can be said.

        One release that cannot be read costs the others nothing. As long as nothing changes it is
        the same object.
        """
        ...

    def find(self, name: str) -> Release | None:
        """One adapter's release, None where it is not released; ReleaseError where that cannot be
        read."""
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


FEW = 256  # releases that are looked at each time: that costs half a millisecond
SWEEP_SECONDS = 2.0

Stamp = tuple[int, int, int]  # of a file: change time, size, inode


class LocalReleases:
    """The releases of an environment that is a folder; a file is parsed when it changes.

    Where there are many, files are looked at only when the folder has changed, as it does whenever
    a release is written, and every `SWEEP_SECONDS` for the sake of those who edit a file in place.
    """

    def __init__(self, folder: ReleaseFolder, packages: Path | None = None):
        self._folder = folder
        self._packages = packages
        self._known: dict[str, _File] = {}  # by adapter
        self._released = Released()
        self._folder_changed: int | None = None  # its change time at the last sweep
        self._swept = float("-inf")  # when, on the monotonic clock

    def read(self) -> Released:
        changed = _change_time(self._folder.path)
        due = time.monotonic() - self._swept >= SWEEP_SECONDS
        if len(self._known) <= FEW or due or changed != self._folder_changed:
            self._swept, self._folder_changed = time.monotonic(), changed
            self._sweep()
        return self._released

    def find(self, name: str) -> Release | None:
        return self._folder.get(name)

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

    def _sweep(self) -> None:
        """Look at every file, and parse those that have changed."""
        found: dict[str, _File] = {}
        for name, stamp in sorted(self._stamps()):
            known = self._known.get(name)
            found[name] = known if known and known.stamp == stamp else self._parsed(name, stamp)
        same = found.keys() == self._known.keys() and all(
            one is self._known[name] for name, one in found.items()
        )
        if not same:
            changes = {
                name: one.release for name, one in found.items() if one is not self._known.get(name)
            }
            changes |= dict.fromkeys(self._known.keys() - found.keys())
            self._released = Released(
                releases=self._released.releases.replaced(changes),
                unreadable={name: one.trouble for name, one in found.items() if one.trouble},
            )
        self._known = found

    def _stamps(self) -> Iterator[tuple[str, Stamp]]:
        """The adapters that have a file, and when each was last changed."""
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
                    except FileNotFoundError:  # retired while we looked
                        continue
                    yield name, (stat.st_mtime_ns, stat.st_size, stat.st_ino)

    def _parsed(self, name: str, stamp: Stamp) -> "_File":
        try:
            return _File(stamp, release=self._folder.get(name))
        except AtelierError as error:
            return _File(stamp, trouble=str(error))


@dataclass(frozen=True)
class _File:
    """A release's file as it was read: the release, or why there is none."""

    stamp: Stamp
    release: Release | None = None
    trouble: str = ""


def _change_time(folder: Path) -> int | None:
    """When an entry of the folder last came, went or was replaced; None where there is none."""
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def verified(data: bytes, digest: str) -> Manifest:
    """A manifest whose bytes have the package's digest; ValueError otherwise."""
    if sha256_bytes(data) != digest:
        raise ValueError("its digest is another one")
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise ValueError(f"it is no manifest ({summary(error)})") from error
