"""Where everything lies on one machine: `$ATELIER_HOME`, by default `.atelier` right here."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from atelier.settings import Settings


class HomeSettings(Settings):
    """The settings of every process that has a home."""

    home: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        default=Path(".atelier"),
        validation_alias="ATELIER_HOME",
        description="The folder that holds everything on one machine",
    )


@dataclass(frozen=True)
class Home:
    """The paths below one root; nothing is created before somebody writes."""

    root: Path

    @classmethod
    def find(cls) -> "Home":
        """The home that the environment names; BadInput for a variable that is no setting."""
        return cls(HomeSettings.read().home)

    @property
    def releases(self) -> Path:
        """One file an adapter: which version serves. Written by promote, rollback and retire."""
        return self.root / "releases"

    @property
    def replicas(self) -> Path:
        """One file a replica: what it holds. Written by its agent."""
        return self.root / "replicas"

    @property
    def gateways(self) -> Path:
        """One file a gateway: where it sends calls. Written by itself."""
        return self.root / "gateways"

    @property
    def volume(self) -> Path:
        """What an agent shares with its engine."""
        return self.root / "volume"

    @property
    def packages(self) -> Path:
        """Verified packages, each in a folder named by the hex part of its digest."""
        return self.volume / "packages"

    @property
    def fetched(self) -> Path:
        """Packages of the registry for commands, each in a folder named by its digest's hex."""
        return self.root / "fetched"

    @property
    def wanted(self) -> Path:
        """From the agent to the engine: what to hold."""
        return self.volume / "wanted.json"

    @property
    def loaded(self) -> Path:
        """From the engine to the agent: what it holds."""
        return self.volume / "loaded.json"

    @property
    def runs(self) -> Path:
        """Training output, `<adapter>/<run>/`."""
        return self.root / "runs"

    @property
    def serve_note(self) -> Path:
        """Addresses and the smoke key, for as long as `atelier serve` runs. Written by it."""
        return self.root / "serve.json"

    @property
    def logs(self) -> Path:
        """What the served processes print."""
        return self.root / "logs"

    @property
    def tracking_uri(self) -> str:
        """MLflow: `$MLFLOW_TRACKING_URI`, or a database here with its artifacts beside it."""
        local = f"sqlite:///{self.root / 'mlflow.db'}"
        return os.environ.get("MLFLOW_TRACKING_URI") or local

    @property
    def database_url(self) -> str:
        """Keys and usage, where ATELIER_DATABASE_URL names no other database."""
        return f"sqlite:///{self.root / 'gateway.db'}"
