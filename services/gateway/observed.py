"""What the routes of all adapters are decided from, and which of them a change concerns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from atelier.contract.gateway import Gateway
from atelier.contract.replica import Replica
from atelier.contract.shards import Shards
from atelier.data.release import Release


@dataclass(frozen=True)
class Observed:
    """Releases and live replicas at one look. What has not changed is the same object as before."""

    releases: Shards[Release] = field(default_factory=Shards)
    replicas: Sequence[Replica] = ()

    def changed(self, since: Observed) -> set[str]:
        """The adapters whose routes may have to be others than at the look before."""
        if _heads(self.replicas) != _heads(since.replicas):
            return {*self.releases, *since.releases}
        found = self.releases.changed(since.releases)
        for now, before in zip(self.replicas, since.replicas, strict=True):
            if now.adapters is not before.adapters:
                found |= now.adapters.changed(before.adapters)
        return found

    def errors(self) -> list[str | None]:
        """What each replica says is wrong with itself."""
        return [one.error for one in self.replicas]


@dataclass(frozen=True)
class Beside:
    """Where the other gateways send calls."""

    gateways: Sequence[Gateway] = ()

    def serving(self, name: str) -> set[str]:
        """The digests by which they answer calls of an adapter."""
        told = [one.routes.get(name) for one in self.gateways]
        return {one.serving for one in told if one and one.serving}

    def same(self, since: Beside) -> bool:
        """Whether nothing has changed that one of them says."""
        return len(self.gateways) == len(since.gateways) and all(
            now.gateway == before.gateway and now.routes is before.routes
            for now, before in zip(self.gateways, since.gateways, strict=True)
        )


def _heads(replicas: Sequence[Replica]) -> list[tuple[str, str, str | None]]:
    return [(one.replica, one.base, one.vae) for one in replicas]
