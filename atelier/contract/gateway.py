"""Where each running gateway sends calls, as it tells the others."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from atelier.contract.reports import Report, ReportFolder
from atelier.contract.shards import Shards
from atelier.data.names import Digest


class Routed(BaseModel):
    """Which versions of an adapter answer calls that name none."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    serving: Digest | None = None  # None: nothing is ready
    canary: Digest | None = None


class Gateway(Report):
    """One gateway's report."""

    gateway: str
    routes: Shards[Routed] = Field(default_factory=Shards)  # by adapter

    entries: ClassVar = "routes"
    shard: ClassVar = TypeAdapter(dict[str, Routed])

    @property
    def reporter(self) -> str:
        return self.gateway


class GatewayFolder(ReportFolder[Gateway]):
    """The gateways' reports on one machine."""

    kind = Gateway
    _swept = False

    def put(self, report: Gateway) -> None:
        """Write a report; first forget gateways that were killed, who could not do so."""
        if not self._swept:
            self._swept = True
            for one in self.list().values():
                if not one.live():
                    self.remove(one.gateway)
        super().put(report)
