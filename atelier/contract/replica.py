"""The reports of replicas: the adapter versions in each engine."""

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
    default: bool = False  # whether it serves requests without a version
    error: str | None = None


class Replica(Report):
    """One replica's report; the engine's `loaded.json` has the same shape."""

    replica: str
    base: Digest
    vae: Digest | None = None  # None: the VAE of the base
    backend: str
    engine_digest: str
    pid: int | None = None
    generation: int = 0
    error: str | None = None  # why the engine cannot load the wanted versions
    address: str | None = None  # host:port of its HTTP (V2); None: gateways use their setting
    grpc: str | None = None  # host:port of its gRPC
    pool: str | None = None  # KServe's predictor: `stable`, or the name of a canary
    adapters: Versions[HeldAdapter] = Field(default_factory=Versions)

    entries: ClassVar = "adapters"
    shard: ClassVar = TypeAdapter(dict[str, tuple[HeldAdapter, ...]])

    @property
    def reporter(self) -> str:
        """The replica's name."""
        return self.replica

    def has_ready(self, name: str, version: int) -> bool:
        """Return whether a version of an adapter is ready in this replica."""
        versions = self.adapters.named(name)
        return any((entry.version, entry.state) == (version, "ready") for entry in versions)

    def holds(self, name: str, digest: str) -> HeldAdapter | None:
        """Return an adapter's entry with this digest, preferably a ready one, or None."""
        matches = [entry for entry in self.adapters.named(name) if entry.digest == digest]
        return min(matches, key=lambda entry: entry.state != "ready", default=None)


def ready(replicas: Iterable[Replica], name: str, digest: str, *, now: float | None = None) -> bool:
    """Return whether there are live replicas and all of them have the adapter's digest ready.

    `replicas` are the replicas that the release fits (`Release.fits`).
    """
    live = [replica for replica in replicas if replica.live(now)]
    entries = [replica.holds(name, digest) for replica in live]
    return bool(entries) and all(entry is not None and entry.state == "ready" for entry in entries)


def base_label(base: str, vae: str | None) -> str:
    """Describe base and VAE for an error message."""
    return f"base {base} and {f'VAE {vae}' if vae else 'its own VAE'}"


class Loaded(Replica):
    """The content of `loaded.json`: the engine writes it for its agent and its next start."""

    terms: str = ""  # digest of the values that decide whether a package can be loaded
    settled: bool = False  # whether each wanted adapter has a default version that is ready


class ReplicaFolder(ReportFolder[Replica]):
    """The reports of replicas on one machine, each written by its agent."""

    kind = Replica
