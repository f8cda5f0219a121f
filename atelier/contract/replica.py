"""What each serving replica holds, as it tells the others."""

from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from atelier.contract.reports import Report, ReportFolder
from atelier.contract.shards import Versions
from atelier.data.names import Digest


class HeldAdapter(BaseModel):
    """One adapter version in a replica."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: int
    digest: Digest
    state: Literal["ready", "loading", "failed"]
    default: bool = False  # whether it answers calls that name no version
    error: str | None = None


class Replica(Report):
    """One replica's report; the engine's `loaded.json` has the same shape."""

    replica: str
    base: Digest
    vae: Digest | None = None  # None: the base's own
    backend: str
    engine_digest: str
    pid: int | None = None
    generation: int = 0
    error: str | None = None  # why it goes on with what it has, where it cannot follow
    address: str | None = None  # host:port of its HTTP (V2); None: where gateways are told
    grpc: str | None = None  # host:port of its gRPC
    pool: str | None = None  # KServe's predictor: `stable`, or a canary's name
    adapters: Versions[HeldAdapter] = Field(default_factory=Versions)

    entries: ClassVar = "adapters"
    shard: ClassVar = TypeAdapter(dict[str, tuple[HeldAdapter, ...]])

    @property
    def reporter(self) -> str:
        return self.replica

    def can_draw(self, name: str, version: int) -> bool:
        """Whether it has that version of an adapter ready."""
        held = self.adapters.named(name)
        return any((one.version, one.state) == (version, "ready") for one in held)

    def holds(self, name: str, digest: str) -> HeldAdapter | None:
        """Its entry for that adapter's digest, ready ones first."""
        found = [held for held in self.adapters.named(name) if held.digest == digest]
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


class ReplicaFolder(ReportFolder[Replica]):
    """The replicas' reports on one machine, each written by its agent."""

    kind = Replica
