"""The home: the folder of all data of one machine, `$ATELIER_HOME` or `.atelier`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from atelier.settings import Settings


class HomeSettings(Settings):
    """The settings of every process with a home."""

    home: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        default=Path(".atelier"),
        validation_alias="ATELIER_HOME",
        description="Folder of all data of one machine",
    )


@dataclass(frozen=True)
class Home:
    """The paths below one root, which are created by the first write."""

    root: Path

    @classmethod
    def find(cls) -> "Home":
        """Return the home of the environment variables. Raises BadInput for unknown variables."""
        return cls(HomeSettings.read().home)

    @property
    def releases(self) -> Path:
        """The releases, one file per adapter, written by promote, rollback and retire."""
        return self.root / "releases"

    @property
    def replicas(self) -> Path:
        """The reports of replicas, one file each, written by its agent."""
        return self.root / "replicas"

    @property
    def gateways(self) -> Path:
        """The reports of gateways, one file each, written by the gateway."""
        return self.root / "gateways"

    @property
    def volume(self) -> Path:
        """The volume that an agent shares with its engine."""
        return self.root / "volume"

    @property
    def packages(self) -> Path:
        """Verified packages, each in a folder named by the hexadecimal part of its digest."""
        return self.volume / "packages"

    @property
    def fetched(self) -> Path:
        """The package cache of commands; its folders are named as in `packages`."""
        return self.root / "fetched"

    @property
    def wanted(self) -> Path:
        """The wanted versions, written by the agent for the engine."""
        return self.volume / "wanted.json"

    @property
    def loaded(self) -> Path:
        """The loaded versions, written by the engine for the agent."""
        return self.volume / "loaded.json"

    @property
    def runs(self) -> Path:
        """Training output, `<adapter>/<run>/`."""
        return self.root / "runs"

    @property
    def evaluations(self) -> Path:
        """Evaluations of packages from the registry, in folders named by digest."""
        return self.root / "evaluations"

    @property
    def serve_note(self) -> Path:
        """Addresses and the key for smoke tests, written by `atelier serve` while it runs."""
        return self.root / "serve.json"

    @property
    def logs(self) -> Path:
        """The output of the processes of `atelier serve`."""
        return self.root / "logs"

    @property
    def tracking_uri(self) -> str:
        """MLflow's address: `$MLFLOW_TRACKING_URI`, or a database in the home."""
        local = f"sqlite:///{self.root / 'mlflow.db'}"
        return os.environ.get("MLFLOW_TRACKING_URI") or local

    @property
    def database_url(self) -> str:
        """The default database of keys and usage, if ATELIER_DATABASE_URL is not set."""
        return f"sqlite:///{self.root / 'gateway.db'}"
