"""The versions that the agent requests from its engine: `volume/wanted.json`."""

from collections.abc import Collection
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from atelier.contract.shards import ShardedModel, Versions
from atelier.data.names import Digest


class WantedAdapter(BaseModel):
    """One wanted version; `default` if it serves requests without a version."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    version: int
    digest: Digest
    path: str  # of the verified package, relative to the volume
    default: bool = False


class Wanted(ShardedModel):
    """The wanted versions; each change increases the generation."""

    adapters: Versions[WantedAdapter] = Field(default_factory=Versions)
    generation: int = 0

    entries: ClassVar = "adapters"
    shard: ClassVar = TypeAdapter(dict[str, tuple[WantedAdapter, ...]])

    def without(self, digests: Collection[str]) -> "Wanted":
        """Return the list without some packages."""
        if not digests:
            return self
        changes = {
            name: tuple(version for version in versions if version.digest not in digests)
            for name, versions in self.adapters.sharded.items()
        }
        return self.model_copy(update={"adapters": self.adapters.replaced(changes)})

    def default(self, name: str) -> WantedAdapter | None:
        """Return the default version of an adapter, or None."""
        return default_of(self.adapters.named(name))


def default_of(wanted: Collection[WantedAdapter]) -> WantedAdapter | None:
    """Return the default one of an adapter's versions, or None."""
    return next((version for version in wanted if version.default), None)
