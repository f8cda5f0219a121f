"""The reports of gateways: the routes of each adapter."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from atelier.contract.reports import Report, ReportFolder
from atelier.contract.shards import Shards
from atelier.data.names import Digest


class Routed(BaseModel):
    """The versions of an adapter that serve requests without a version."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    serving: Digest | None = None  # None: no version is ready
    canary: Digest | None = None


class Gateway(Report):
    """One gateway's report."""

    gateway: str
    routes: Shards[Routed] = Field(default_factory=Shards)  # by adapter

    entries: ClassVar = "routes"
    shard: ClassVar = TypeAdapter(dict[str, Routed])

    @property
    def reporter(self) -> str:
        """The gateway's name."""
        return self.gateway


class GatewayFolder(ReportFolder[Gateway]):
    """The reports of gateways on one machine."""

    kind = Gateway
    _swept = False

    def put(self, report: Gateway) -> None:
        """Write a report; the first call also removes the reports of killed gateways."""
        if not self._swept:
            self._swept = True
            for gateway in self.list().values():
                if not gateway.live():
                    self.remove(gateway.gateway)
        super().put(report)
