"""The environment's alias in the registry: the decision when it moves, and its only writer.

The release says which version serves. The alias names the version that was verified to serve.
`decide` knows every case and changes nothing. `AliasWriter` is the only code that moves an alias,
on one machine and on a cluster.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from pydantic import BaseModel, ConfigDict

from atelier.data.names import AdapterName, Digest
from atelier.data.release import Pin, Release
from atelier.errors import BadInput, Unavailable
from atelier.stores.registry import Registry
from pipelines.delivery.readiness import Readiness


class JournalEntry(BaseModel):
    """A change that is under way for one adapter, and the revision to restore if it fails."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapter: AdapterName
    doing: Literal["promote", "canary", "retire"]
    version: int | None = None
    digest: Digest | None = None
    before: int | None = None  # revision of the release that it replaces; None: there was none

    def describes(self, release: Release) -> bool:
        """Whether the release is still as this change made it."""
        if self.doing == "canary":
            return release.canary is not None and release.canary.digest == self.digest
        return self.doing == "promote" and release.digest == self.digest


class NextStep(Enum):
    """The next step for one adapter."""

    NOTHING = "release and alias agree"
    WAIT = "replicas or gateways have not followed yet"
    VERIFY = "check that it serves, then move the alias"
    RESTORE = "the new version failed before it served: restore the release before it"
    FORGET = "the journal entry was overtaken or never began"
    UNALIAS = "nothing is released: remove the alias"


def decide(
    release: Release | None, entry: JournalEntry | None, readiness: Readiness, alias: int | None
) -> NextStep:
    """The next step, from the release, the change under way, the reports and the alias.

    Only a promotion is restored automatically. A rollback is final: a replica that stumbles must
    not bring the newer version back.
    """
    if release is None:
        if entry is not None and entry.doing == "retire":
            return NextStep.WAIT if readiness.state == "loading" else NextStep.UNALIAS
        return NextStep.NOTHING if entry is None else NextStep.FORGET
    if entry is not None:
        if not entry.describes(release):
            return NextStep.FORGET
        steps = {"failed": NextStep.RESTORE, "ready": NextStep.VERIFY}
        return steps.get(readiness.state, NextStep.WAIT)
    if alias == release.version and readiness.state != "loading":
        return NextStep.NOTHING
    return NextStep.VERIFY if readiness.state == "ready" else NextStep.WAIT


@dataclass(frozen=True)
class RegistryState:
    """The registry's record of an adapter, and a problem with it, if there is one."""

    alias: int | None = None  # the version that the environment's alias names
    problem: str = ""
    away: bool = False


def registry_state(
    registry: Registry | None, name: str, environment: str, release: Release | None
) -> RegistryState:
    """The version that the alias names, and whether the registry has what the release pins.

    None as `registry` means that it is known to be away.
    """
    if registry is None:
        return RegistryState(problem="the registry is away", away=True)
    try:
        versions = registry.versions(name)
    except Unavailable as error:
        return RegistryState(problem=str(error), away=True)
    except BadInput as error:
        return RegistryState(problem=str(error) if release else "")
    alias = next((one.version for one in versions if environment in one.aliases), None)
    if release is None:
        return RegistryState(alias)
    digests = {one.version: one.digest for one in versions}
    found = digests.get(release.version, "nothing")
    if found != release.digest:
        return RegistryState(
            alias,
            f"the release pins version {release.version} as {release.digest}, but the registry "
            f"has {found} there; promote a version that it has, or roll back",
        )
    return RegistryState(alias)


class AliasWriter:
    """Moves and removes one environment's alias; Unavailable where the registry is away."""

    def __init__(self, registry: Callable[[], Registry], environment: str):
        self._registry = registry
        self._environment = environment

    def move(self, release: Release) -> None:
        """Let the alias name the release's version, and tag the version as served here."""
        registry = self._registry()
        registry.tag(release.adapter, release.version, self._mark(release))
        registry.set_alias(release.adapter, self._environment, release.version)

    def remove(self, name: str) -> None:
        """Let the alias name nothing."""
        self._registry().remove_alias(name, self._environment)

    def has_named(self, release: Release, pin: Pin) -> bool:
        """Whether the alias has named `pin` before, with the release's base and VAE."""
        version = self._registry().version(release.adapter, pin.version)
        return self._mark(release).items() <= version.tags.items()

    def _mark(self, release: Release) -> dict[str, str]:
        """The tag of a version since the alias first named it."""
        return {f"atelier.served.{self._environment}": f"{release.base} {release.vae}"}
