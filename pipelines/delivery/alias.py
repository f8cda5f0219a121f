"""The environment's alias in the registry: the decision when it moves, and its only writer.

The release names the version to serve. The alias names the version that was verified to serve.
`decide` chooses the next step and changes nothing. Only `AliasWriter` moves an alias, on one
machine and on a cluster.
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
    """An unfinished change of one adapter, and the revision to restore if it fails."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapter: AdapterName
    doing: Literal["promote", "canary", "retire"]
    version: int | None = None
    digest: Digest | None = None
    before: int | None = None  # revision of the release that it replaces; None: no release

    def describes(self, release: Release) -> bool:
        """Return whether the release still serves the version of this change."""
        if self.doing == "canary":
            return release.canary is not None and release.canary.digest == self.digest
        return self.doing == "promote" and release.digest == self.digest


class NextStep(Enum):
    """The next step for one adapter."""

    NOTHING = "release and alias agree"
    WAIT = "replicas or gateways do not serve the release yet"
    VERIFY = "run the smoke test, then move the alias"
    RESTORE = "the new version failed before it served: restore the previous release"
    FORGET = "the release does not match the journal entry: remove the entry"
    UNALIAS = "the adapter is retired: remove the alias"


def decide(
    release: Release | None, entry: JournalEntry | None, readiness: Readiness, alias: int | None
) -> NextStep:
    """Return the next step. `alias` is the version that the alias names.

    Only a failed promotion or canary is reverted automatically. A rollback has no journal entry: a
    replica that fails must not bring the newer version back.
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
    unavailable: bool = False  # the problem is that the registry does not respond


def registry_state(
    registry: Registry | None, name: str, environment: str, release: Release | None
) -> RegistryState:
    """Return the alias's version, and a problem if the registry lacks the release's version.

    `registry` is None if it is known to be unavailable.
    """
    if registry is None:
        return RegistryState(problem="the registry is unavailable", unavailable=True)
    try:
        versions = registry.versions(name)
    except Unavailable as error:
        return RegistryState(problem=str(error), unavailable=True)
    except BadInput as error:
        return RegistryState(problem=str(error) if release else "")
    alias = next((info.version for info in versions if environment in info.aliases), None)
    if release is None:
        return RegistryState(alias)
    digests = {info.version: info.digest for info in versions}
    registered = digests.get(release.version, "no such version")
    if registered != release.digest:
        return RegistryState(
            alias,
            f"the release pins version {release.version} as {release.digest}, but the registry "
            f"has {registered}; promote a version that it has, or roll back",
        )
    return RegistryState(alias)


class AliasWriter:
    """Moves and removes one environment's alias.

    Methods raise Unavailable if the registry does not respond.
    """

    def __init__(self, registry: Callable[[], Registry], environment: str):
        self._registry = registry
        self._environment = environment

    def move(self, release: Release) -> None:
        """Set the alias to the release's version, and tag the version as served here."""
        registry = self._registry()
        registry.tag(release.adapter, release.version, self._mark(release))
        registry.set_alias(release.adapter, self._environment, release.version)

    def remove(self, name: str) -> None:
        """Remove the alias of an adapter."""
        self._registry().remove_alias(name, self._environment)

    def has_named(self, release: Release, pin: Pin) -> bool:
        """Return whether the alias has named `pin` before, with the release's base and VAE."""
        version = self._registry().version(release.adapter, pin.version)
        return self._mark(release).items() <= version.tags.items()

    def _mark(self, release: Release) -> dict[str, str]:
        """Return the tag of a version that the alias has named."""
        return {f"atelier.served.{self._environment}": f"{release.base} {release.vae}"}
