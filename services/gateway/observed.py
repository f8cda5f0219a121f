"""Compare two states of releases and reports, to find the adapters whose routes may change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from atelier.contract.gateway import Gateway
from atelier.contract.replica import Replica
from atelier.contract.shards import Shards
from atelier.data.release import Release


@dataclass(frozen=True)
class Observed:
    """Releases and live replicas at one time. An unchanged item is the same object as before."""

    releases: Shards[Release] = field(default_factory=Shards)
    replicas: Sequence[Replica] = ()

    def changed(self, since: Observed) -> set[str]:
        """Return the adapters whose routes may have changed since the state `since`."""
        if _heads(self.replicas) != _heads(since.replicas):
            return {*self.releases, *since.releases}
        changed = self.releases.changed(since.releases)
        for now, before in zip(self.replicas, since.replicas, strict=True):
            if now.adapters is not before.adapters:
                changed |= now.adapters.changed(before.adapters)
        return changed

    def errors(self) -> list[str | None]:
        """Return the error in the report of each replica, or None if it has no error."""
        return [replica.error for replica in self.replicas]


@dataclass(frozen=True)
class OtherGateways:
    """The reports of the other gateways."""

    gateways: Sequence[Gateway] = ()

    def serving(self, name: str) -> set[str]:
        """Return the digests of the versions of an adapter that the other gateways serve."""
        routes = [gateway.routes.get(name) for gateway in self.gateways]
        return {route.serving for route in routes if route and route.serving}

    def same(self, since: OtherGateways) -> bool:
        """Return whether the gateways and their routes are the same as in `since`."""
        return len(self.gateways) == len(since.gateways) and all(
            now.gateway == before.gateway and now.routes is before.routes
            for now, before in zip(self.gateways, since.gateways, strict=True)
        )


def _heads(replicas: Sequence[Replica]) -> list[tuple[str, str, str | None]]:
    return [(replica.replica, replica.base, replica.vae) for replica in replicas]
