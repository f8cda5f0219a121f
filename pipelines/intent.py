"""What is under way for an adapter, written down before it is done.

Whoever finds an intent after a crash knows what was being done, and the way back.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from atelier.files import write_atomic
from atelier.home import Home
from atelier.names import AdapterName, Digest


class Intent(BaseModel):
    """What is under way for one adapter, and the revision to go back to should it fail."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapter: AdapterName
    doing: Literal["promote", "canary", "retire"]
    version: int | None = None
    digest: Digest | None = None
    before: int | None = None  # revision of the release that it replaces; None where there was none


class IntentFolder:
    """The intents of one environment, a file for each adapter."""

    def __init__(self, home: Home):
        self.path = home.root / "promotions"

    def get(self, name: str) -> Intent | None:
        """The intent of an adapter. One that cannot be read is as good as none: written whole or
        not at all, it can only be from another version of this program."""
        try:
            return Intent.model_validate_json((self.path / f"{name}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def put(self, intent: Intent) -> None:
        """Write an intent in one step."""
        write_atomic(self.path / f"{intent.adapter}.json", intent.model_dump_json(indent=1))

    def remove(self, name: str) -> None:
        """Nothing is under way any more."""
        (self.path / f"{name}.json").unlink(missing_ok=True)

    def names(self) -> set[str]:
        """The adapters with something under way."""
        return {file.stem for file in self.path.glob("[!.]*.json")}

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Read and write one adapter's release and intent undisturbed. Released by a crash too."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / f".{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
