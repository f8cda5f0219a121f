"""Verified packages of adapters by name and version: those that serve, the cache, the registry."""

from collections.abc import Callable
from dataclasses import dataclass

from atelier.adapter.package import Package
from atelier.data.names import hex_of
from atelier.data.release import ReleaseFolder
from atelier.errors import BadInput
from atelier.home import Home
from atelier.stores.registry import Registry, VersionInfo


@dataclass(frozen=True)
class ResolvedAdapter:
    """A verified package, and its version if it came from the registry."""

    package: Package
    version: int | None = None

    @property
    def label(self) -> str:
        """Adapter and version for people; without a version the beginning of the digest."""
        version = self.version or hex_of(self.package.digest)[:7]
        return f"{self.package.manifest.name} {version}"


def resolve(
    name: str, version: int | None, home: Home, registry: Callable[[], Registry]
) -> ResolvedAdapter:
    """The package of an adapter's version.

    Without a version it is the one that serves in this home, or else the registry's newest. The
    registry is asked only for a package that the home's volume does not hold. Raises BadInput where
    there is no such version, AdapterRejected for a damaged package, and Unavailable where the
    registry is away.
    """
    release = ReleaseFolder(home.releases).get(name)
    if release is not None and version in (None, release.version):
        served = home.packages / hex_of(release.digest)
        if served.is_dir():
            return ResolvedAdapter(Package.open(served, digest=release.digest), release.version)
    known = registry()
    version = version or (release.version if release else None)
    info = known.version(name, version) if version else _newest(known, name)
    return ResolvedAdapter(fetched(known, home, info), info.version)


def fetched(registry: Registry, home: Home, version: VersionInfo) -> Package:
    """A version's package as a verified folder, which the home keeps by its digest.

    Raises AdapterRejected where the registry's package is damaged, and Unavailable where the
    registry is away.
    """
    return registry.fetch(version, home.fetched / hex_of(version.digest))


def _newest(registry: Registry, name: str) -> VersionInfo:
    versions = registry.versions(name)
    if not versions:
        raise BadInput(f"adapter {name}: neither served here nor in the registry; train it first")
    return versions[-1]
