"""What each serving replica holds, as it tells the others."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from atelier.files import write_atomic
from atelier.names import Digest

LIVE_SECONDS = 5.0  # five missed heartbeats


class Held(BaseModel):
    """One adapter version in a replica."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: int
    digest: Digest
    state: Literal["ready", "loading", "failed"]
    default: bool = False  # whether it answers calls that name no version
    error: str | None = None


class Replica(BaseModel):
    """One replica's report; the engine's `loaded.json` has the same shape."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    replica: str
    base: Digest
    vae: Digest | None = None  # None: the base's own
    backend: str
    engine_digest: str
    heartbeat: float  # seconds since the epoch
    pid: int | None = None
    generation: int = 0
    error: str | None = None  # why it goes on with what it has, where it cannot follow
    adapters: tuple[Held, ...] = ()

    def live(self, now: float | None = None) -> bool:
        """Whether its heartbeat is recent."""
        return (time.time() if now is None else now) - self.heartbeat < LIVE_SECONDS

    def holds(self, name: str, digest: str) -> Held | None:
        """Its entry for that adapter's digest, ready ones first."""
        found = [held for held in self.adapters if (held.name, held.digest) == (name, digest)]
        return min(found, key=lambda held: held.state != "ready", default=None)


def ready(replicas: Iterable[Replica], name: str, digest: str, *, now: float | None = None) -> bool:
    """Whether every live replica can serve the adapter's digest at once; without one, nothing is.

    Give it those that the release is for (`Release.fits`).
    """
    live = [one for one in replicas if one.live(now)]
    held = [one.holds(name, digest) for one in live]
    return bool(held) and all(one is not None and one.state == "ready" for one in held)


def drawn_with(base: str, vae: str | None) -> str:
    """What decides how pictures look beside the adapter, for errors that name both sides."""
    return f"base {base} and {f'VAE {vae}' if vae else 'its own VAE'}"


class ReplicaFolder:
    """The replicas' reports on one machine: one file a replica, each written by its agent."""

    def __init__(self, path: Path):
        self.path = path

    def list(self) -> dict[str, Replica]:
        """Every readable report; one that cannot be read counts as a replica that is not there."""
        found = {}
        for file in sorted(self.path.glob("*.json")):
            try:
                report = Replica.model_validate_json(file.read_bytes())
            except (OSError, ValidationError):
                continue
            found[report.replica] = report
        return found

    def put(self, report: Replica) -> None:
        """Write a replica's report."""
        write_atomic(self.path / f"{report.replica}.json", report.model_dump_json(indent=2))

    def remove(self, replica: str) -> None:
        """Forget a replica that has ended."""
        (self.path / f"{replica}.json").unlink(missing_ok=True)
