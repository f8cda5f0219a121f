"""Look-up of verified packages in the volume, the cache and the registry."""

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
        """Adapter and version for messages; without a version, the beginning of the digest."""
        version = self.version or hex_of(self.package.digest)[:7]
        return f"{self.package.manifest.name} {version}"


def resolve(
    name: str, version: int | None, home: Home, registry: Callable[[], Registry]
) -> ResolvedAdapter:
    """Return the package of an adapter's version.

    The default is the version that this home serves, or else the newest one in the registry. The
    registry is used only if the home's volume does not contain the package. Raises BadInput if
    there is no such version, AdapterRejected for a damaged package, and Unavailable if the registry
    cannot be reached.
    """
    release = ReleaseFolder(home.releases).get(name)
    if release is not None and version in (None, release.version):
        served = home.packages / hex_of(release.digest)
        if served.is_dir():
            return ResolvedAdapter(Package.open(served, digest=release.digest), release.version)
    versions = registry()
    version = version or (release.version if release else None)
    info = versions.version(name, version) if version else _newest(versions, name)
    return ResolvedAdapter(fetched(versions, home, info), info.version)


def fetched(registry: Registry, home: Home, version: VersionInfo) -> Package:
    """Return a version's verified package, from the home's cache or the registry.

    Raises AdapterRejected if the registry's package is damaged, and Unavailable if the registry
    cannot be reached.
    """
    return registry.fetch(version, home.fetched / hex_of(version.digest))


def _newest(registry: Registry, name: str) -> VersionInfo:
    versions = registry.versions(name)
    if not versions:
        raise BadInput(
            f"adapter {name}: neither served in this home nor in the registry; train it first"
        )
    return versions[-1]
