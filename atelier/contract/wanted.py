"""What the agent asks of its engine: `volume/wanted.json`."""

from collections.abc import Collection
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from atelier.data.names import AdapterName, Digest
from atelier.files import write_atomic


class WantedAdapter(BaseModel):
    """One version to hold; `default` where it answers requests that name no version."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: AdapterName
    version: int
    digest: Digest
    path: str  # of the verified package, from the volume
    default: bool = False


class Wanted(BaseModel):
    """The whole list; the generation grows with each change of it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    adapters: tuple[WantedAdapter, ...] = ()
    generation: int = 0

    @classmethod
    def read(cls, file: Path) -> "Wanted":
        """What was asked last; nothing where that cannot be read."""
        try:
            return cls.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):
            return cls()

    def write(self, file: Path) -> None:
        """Ask for it."""
        write_atomic(file, self.model_dump_json(indent=2))

    def without(self, digests: Collection[str]) -> "Wanted":
        """The same list less some packages."""
        kept = tuple(one for one in self.adapters if one.digest not in digests)
        return self.model_copy(update={"adapters": kept})

    def default(self, name: str) -> WantedAdapter | None:
        """The version of `name` that answers by default."""
        return next((one for one in self.adapters if one.name == name and one.default), None)
