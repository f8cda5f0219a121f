"""Where each running gateway sends calls, as it tells the others."""

import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atelier.files import write_atomic
from atelier.names import AdapterName, Digest
from atelier.replica import LIVE_SECONDS


class Routed(BaseModel):
    """Which versions of an adapter answer calls that name none."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    serving: Digest | None = None  # None: nothing is ready
    canary: Digest | None = None


class Gateway(BaseModel):
    """One gateway's report."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    gateway: str
    heartbeat: float  # seconds since the epoch
    routes: Mapping[AdapterName, Routed] = Field(default_factory=dict)

    def live(self, now: float | None = None) -> bool:
        """Whether its heartbeat is recent."""
        return (time.time() if now is None else now) - self.heartbeat < LIVE_SECONDS


class GatewayFolder:
    """The gateways' reports on one machine: one file each."""

    def __init__(self, path: Path):
        self.path = path

    def list(self) -> dict[str, Gateway]:
        """Every readable report; one that cannot be read counts as a gateway that is not there."""
        found = {}
        for file in sorted(self.path.glob("[!.]*.json")):
            try:
                report = Gateway.model_validate_json(file.read_bytes())
            except (OSError, ValidationError):
                continue
            found[report.gateway] = report
        return found

    def put(self, report: Gateway) -> None:
        """Write a gateway's report."""
        write_atomic(self.path / f"{report.gateway}.json", report.model_dump_json(indent=2))

    def remove(self, gateway: str) -> None:
        """Forget a gateway that has ended."""
        (self.path / f"{gateway}.json").unlink(missing_ok=True)
