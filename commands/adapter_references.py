"""Adapter references of the command line (`thor-cat`, `thor-cat@2=0.7`, a folder)."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from atelier.adapter.package import MANIFEST, Package
from atelier.data.names import hex_of
from atelier.data.release import ReleaseFolder
from atelier.errors import BadInput
from atelier.home import Home

if TYPE_CHECKING:
    from atelier.stores.registry import Registry, VersionInfo

_NAMED = re.compile(r"(?P<name>[a-z0-9-]+)(?:@(?P<version>\d+))?")


@dataclass(frozen=True)
class AdapterReference:
    """A reference to an adapter: a name with or without a version, or a folder."""

    name: str | None = None
    version: int | None = None
    path: Path | None = None
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "AdapterReference":
        """Parse `NAME[@VERSION][=WEIGHT]` or `FOLDER[=WEIGHT]`. An existing folder has priority."""
        head, equals, tail = text.rpartition("=")
        source, weight = (head, _weight(tail, text)) if equals else (text, 1.0)
        named = _NAMED.fullmatch(source)
        if named is None or (Path(source) / MANIFEST).is_file():
            return cls(path=Path(source), weight=weight)
        version = named["version"]
        return cls(named["name"], int(version) if version else None, weight=weight)

    def __str__(self) -> str:
        if self.path is not None:
            return str(self.path)
        return f"{self.name}@{self.version}" if self.version else str(self.name)


@dataclass(frozen=True)
class ResolvedAdapter:
    """A verified package, and its version if it came from the registry."""

    package: Package
    version: int | None = None

    @property
    def label(self) -> str:
        """The name for labels, with the version or the first digits of the digest."""
        which = self.version or hex_of(self.package.digest)[:7]
        return f"{self.package.manifest.name} {which}"


def find(ref: AdapterReference, home: Home) -> ResolvedAdapter:
    """The package of a reference. A name without a version means the version that serves here.

    If none serves, it means the registry's newest version.
    """
    if ref.path is not None:
        return ResolvedAdapter(Package.open(ref.path))
    assert ref.name is not None  # parse sets either path or name
    release = ReleaseFolder(home.releases).get(ref.name)
    if release is not None and ref.version in (None, release.version):
        kept = home.packages / hex_of(release.digest)
        if kept.is_dir():
            return ResolvedAdapter(Package.open(kept, digest=release.digest), release.version)
    registry = open_registry(home)
    version = ref.version or (release.version if release else None)
    info = registry.version(ref.name, version) if version else _newest(registry, ref.name)
    return ResolvedAdapter(fetched(registry, home, info), info.version)


def open_registry(home: Home) -> "Registry":
    """The registry of this home, or the one that MLFLOW_TRACKING_URI names."""
    from atelier.stores.registry import Registry  # imports MLflow, which takes a second

    return Registry(home.tracking_uri)


def fetched(registry: "Registry", home: Home, info: "VersionInfo") -> Package:
    """A version of the registry as a verified folder, kept by digest for the next time."""
    return registry.fetch(info, home.root / "fetched" / hex_of(info.digest))


def _newest(registry: "Registry", name: str) -> "VersionInfo":
    versions = registry.versions(name)
    if not versions:
        raise BadInput(f"adapter {name}: neither served here nor in the registry; train it first")
    return versions[-1]


def _weight(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"{whole!r}: the weight after = must be a number, not {text!r}") from None
