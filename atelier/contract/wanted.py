"""What the agent asks of its engine: `volume/wanted.json`."""

from collections.abc import Collection
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from atelier.contract.shards import ShardedModel, Versions
from atelier.data.names import Digest


class WantedAdapter(BaseModel):
    """One version to hold; `default` where it answers requests that name no version."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    version: int
    digest: Digest
    path: str  # of the verified package, from the volume
    default: bool = False


class Wanted(ShardedModel):
    """The whole list; the generation grows with each change of it."""

    adapters: Versions[WantedAdapter] = Field(default_factory=Versions)
    generation: int = 0

    entries: ClassVar = "adapters"
    shard: ClassVar = TypeAdapter(dict[str, tuple[WantedAdapter, ...]])

    def without(self, digests: Collection[str]) -> "Wanted":
        """The same list less some packages."""
        changes = {
            name: tuple(one for one in found if one.digest not in digests)
            for name, found in self.adapters.sharded.items()
        }
        return self.model_copy(update={"adapters": self.adapters.replaced(changes)})

    def default(self, name: str) -> WantedAdapter | None:
        """The version of `name` that answers by default."""
        return default_of(self.adapters.named(name))


def default_of(wanted: Collection[WantedAdapter]) -> WantedAdapter | None:
    """Of one adapter's versions the one that answers by default."""
    return next((one for one in wanted if one.default), None)
