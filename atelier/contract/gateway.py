"""Where each running gateway sends calls, as it tells the others."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from atelier.contract.reports import Report, ReportFolder
from atelier.data.names import AdapterName, Digest


class Routed(BaseModel):
    """Which versions of an adapter answer calls that name none."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    serving: Digest | None = None  # None: nothing is ready
    canary: Digest | None = None


class Gateway(Report):
    """One gateway's report."""

    gateway: str
    routes: Mapping[AdapterName, Routed] = Field(default_factory=dict)

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
