"""Brings each adapter of a home to the state that its release asks for.

A promotion writes a journal entry beside the release while it is under way. Whoever comes next (the
promotion itself, the next command, `atelier serve`) reads it and finishes the promotion or restores
the release before it. `alias.decide` chooses each step; the reconciler takes it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from atelier.data.release import Release, ReleaseFolder
from atelier.errors import AtelierError, ExitCode, Unavailable
from atelier.home import Home
from atelier.stores.environment import Environment, local
from atelier.stores.registry import Registry
from pipelines.delivery.alias import (
    AliasWriter,
    JournalEntry,
    NextStep,
    RegistryState,
    decide,
    registry_state,
)
from pipelines.delivery.local.journal import PromotionJournal
from pipelines.delivery.readiness import Readiness, release_readiness, retirement_readiness
from pipelines.delivery.smoke import Smoke, SmokeTest

ENVIRONMENT: Final = "local"
ROUNDS: Final = 5  # how often a release may change during one run before the next run takes over

State = Literal["serving", "pending", "restored", "retired", "disagrees"]


@dataclass(frozen=True)
class PromotionStatus:
    """The state of one adapter. `retry` says whether it may change soon without a command."""

    adapter: str
    state: State
    message: str
    version: int | None = None
    digest: str | None = None
    alias: int | None = None
    retry: bool = False

    @property
    def exit_code(self) -> ExitCode:
        """REFUSED where the release and the registry disagree."""
        return ExitCode.of_verdict(self.state != "disagrees")


def reconcile(
    home: Home,
    registry: Registry | None,
    *,
    smoke: Smoke | None = None,
    environment: str = ENVIRONMENT,
    names: Collection[str] | None = None,
    here: Environment | None = None,
) -> list[PromotionStatus]:
    """Bring the adapters of this home as far as possible now. Safe to repeat.

    Without `names` these are all that are released or have a journal entry. `here` is the home's
    environment, for a caller that keeps what it has read of it.

    An adapter that a command works on is left to that command. An error of one adapter does not
    affect the others.
    """
    journal, here = PromotionJournal(home), here or local(home)
    statuses = []
    if names is None:
        names = ReleaseFolder(home.releases).names() | journal.names()
    for name in sorted(names):
        if journal.is_worked_on(name):
            message = f"{name}: another command is working on it"
            statuses.append(PromotionStatus(name, "pending", message, retry=True))
            continue
        reconciler = Reconciler(
            name, home, registry, smoke=smoke, environment=environment, here=here
        )
        try:
            statuses.append(reconciler.run())
        except AtelierError as error:
            statuses.append(PromotionStatus(name, "pending", f"{name}: {error}"))
    return statuses


class Reconciler:
    """Reconciles one adapter of one environment."""

    def __init__(
        self,
        name: str,
        home: Home,
        registry: Registry | None,  # None: known to be away
        *,
        smoke: Smoke | None = None,  # None: no image is drawn
        environment: str = ENVIRONMENT,
        here: Environment | None = None,
    ):
        self.name = name
        self.home = home
        self.here = here or local(home)
        self.registry = registry
        self.environment = environment
        self.releases = ReleaseFolder(home.releases)
        self.journal = PromotionJournal(home)
        self._alias = AliasWriter(self._registry, environment)
        self._smoke_test = SmokeTest(self._registry, self._alias, smoke) if smoke else None
        self._restored = ""  # the reason, once a promotion failed during this run

    def run(self) -> PromotionStatus:
        """Take steps until none is left that can be taken now."""
        for _ in range(ROUNDS):
            status = self._turn()
            if status is not None:
                return status
        raise Unavailable(f"{self.name}: its release keeps changing; run the command again")

    def restore(self, release: Release, entry: JournalEntry, why: str) -> None:
        """Serve again the release before `entry`, unless somebody changed it in the meantime."""
        with self.journal.locked(self.name):
            if self.releases.get(self.name) != release:
                return
            if entry.doing == "canary":
                self.releases.put(release.with_canary(None, why))
            elif entry.before is None:
                self.releases.remove(self.name)
            else:
                self.releases.put(release.rolled_back(entry.before, why))
            self.journal.remove(self.name)
            self._restored = f"version {entry.version} was taken back before it served: {why}"

    def _turn(self) -> PromotionStatus | None:
        """One step; None where it changed something and another turn is due."""
        with self.journal.locked(self.name):
            release, entry = self.releases.get(self.name), self.journal.get(self.name)
        state = registry_state(self.registry, self.name, self.environment, release)
        readiness = self._readiness(release, entry)
        step = decide(release, entry, readiness, state.alias)
        if step is NextStep.FORGET:
            self._forget(entry)
            return None
        if release is None and step is NextStep.WAIT:
            message = f"{self.name} is not released; {readiness.detail}"
            return PromotionStatus(self.name, "pending", message, alias=state.alias, retry=True)
        if release is None:
            return self._without_release(entry, state)
        if step is NextStep.RESTORE and entry is not None:
            self.restore(release, entry, readiness.detail)
            return None
        disagrees = bool(state.problem) and not state.away
        if step is NextStep.WAIT:
            retry = readiness.state == "loading"
            if disagrees:
                return self._status("disagrees", release, state, state.problem, retry=retry)
            return self._status("pending", release, state, readiness.detail, retry=retry)
        if state.problem:
            return self._status(
                "disagrees" if disagrees else "pending", release, state, state.problem
            )
        if step is NextStep.VERIFY:
            return self._verify(release, entry, state)
        return self._status("serving", release, state, readiness.detail)

    def _forget(self, entry: JournalEntry | None) -> None:
        with self.journal.locked(self.name):
            if self.journal.get(self.name) == entry:
                self.journal.remove(self.name)

    def _verify(
        self, release: Release, entry: JournalEntry | None, state: RegistryState
    ) -> PromotionStatus | None:
        """Draw, then move the alias. A canary moves none: most calls go to the other version."""
        canary = release.canary if entry is not None and entry.doing == "canary" else None
        try:
            if self._smoke_test is not None:
                self._smoke_test.run(release, canary or release.pin)
            if canary is None:
                self._alias.move(release)
        except Unavailable as error:
            return self._status("pending", release, state, f"smoke check: {error}", retry=True)
        except AtelierError as error:
            if entry is not None:
                self.restore(release, entry, f"smoke check: {error}")
                return None
            return self._status("pending", release, state, f"smoke check failed: {error}")
        self._forget(entry)
        return None

    def _without_release(self, entry: JournalEntry | None, state: RegistryState) -> PromotionStatus:
        """Nothing is served any more, so the alias goes too."""
        text = self._restored or f"{self.name} is not released"
        if entry is None and self._restored:
            return PromotionStatus(self.name, "restored", text)
        if state.away or self.registry is None:
            text = f"{text}; alias {self.environment} is still to be removed: {state.problem}"
            return PromotionStatus(self.name, "pending", text, alias=state.alias)
        try:
            if state.alias is not None:
                self._alias.remove(self.name)
        except Unavailable as error:
            return PromotionStatus(self.name, "pending", f"{text}; {error}", alias=state.alias)
        self._forget(entry)
        return PromotionStatus(self.name, "retired", text)

    def _readiness(self, release: Release | None, entry: JournalEntry | None) -> Readiness:
        if release is None:
            return retirement_readiness(self.here, self.name)
        canary = entry is not None and entry.doing == "canary"
        return release_readiness(self.here, release, canary=canary)

    def _registry(self) -> Registry:
        if self.registry is None:
            raise Unavailable("the registry is away")
        return self.registry

    def _status(
        self,
        state: State,
        release: Release,
        registry: RegistryState,
        reason: str,
        *,
        retry: bool = False,
    ) -> PromotionStatus:
        """The status in words: the released version, the alias's version, and the reason."""
        alias = "no version" if registry.alias is None else f"version {registry.alias}"
        if self._restored:
            state, reason = "restored", f"{self._restored}; {reason}"
        serves = f"version {release.version} is released, alias {self.environment} names {alias}"
        return PromotionStatus(
            self.name,
            state,
            f"{self.name}: {serves}: {reason}",
            version=release.version,
            digest=release.digest,
            alias=registry.alias,
            retry=retry and not self._restored,
        )
