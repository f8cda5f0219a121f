"""Reconcile the adapters of a home: make the release, the journal and the alias agree.

While a promotion is unfinished, it has a journal entry beside the release. The promotion itself,
the next command or `atelier serve` reads the entry, and finishes the promotion or restores the
previous release. `alias.decide` chooses each step and the reconciler executes it.
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
from pipelines.delivery.approval import LOCAL
from pipelines.delivery.local.journal import PromotionJournal
from pipelines.delivery.readiness import Readiness, release_readiness, retirement_readiness
from pipelines.delivery.smoke import Smoke, SmokeTest

ENVIRONMENT: Final = LOCAL
ROUNDS: Final = 5  # steps of one run; a release that keeps changing must not keep a command busy

State = Literal["serving", "pending", "restored", "retired", "disagrees"]


@dataclass(frozen=True)
class PromotionStatus:
    """The promotion status of one adapter. `retry`: it may change soon without a command."""

    adapter: str
    state: State
    message: str
    version: int | None = None
    digest: str | None = None
    alias: int | None = None
    retry: bool = False

    @property
    def exit_code(self) -> ExitCode:
        """REFUSED if the release and the registry disagree, else DONE."""
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
    """Reconcile adapters of this home as far as possible now. Safe to repeat.

    Without `names`, these are all adapters that have a release or a journal entry. `here` is the
    home's environment, for callers that reuse its cache.

    An adapter that a command is changing is skipped. An error of one adapter does not affect the
    others.
    """
    journal, here = PromotionJournal(home), here or local(home)
    statuses = []
    if names is None:
        names = ReleaseFolder(home.releases).names() | journal.names()
    for name in sorted(names):
        if journal.is_command_running(name):
            message = f"{name}: another command is changing it"
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
        registry: Registry | None,  # None: known to be unavailable
        *,
        smoke: Smoke | None = None,  # None: no smoke test
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
        self._restored = ""  # the reason, if a promotion was reverted during this run

    def run(self) -> PromotionStatus:
        """Execute steps until the next one must wait.

        Raises Unavailable if the release keeps changing.
        """
        for _ in range(ROUNDS):
            status = self._step()
            if status is not None:
                return status
        raise Unavailable(f"{self.name}: the release keeps changing; run the command again")

    def restore(self, release: Release, entry: JournalEntry, why: str) -> None:
        """Restore the release before `entry`, unless the release has changed in the meantime."""
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
            self._restored = f"version {entry.version} was reverted before it served: {why}"

    def _step(self) -> PromotionStatus | None:
        """Execute one step and return the status, None if the step changed something."""
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
        disagrees = bool(state.problem) and not state.unavailable
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
        """Run the smoke test, then move the alias. For a canary, only run the smoke test."""
        canary = release.canary if entry is not None and entry.doing == "canary" else None
        try:
            if self._smoke_test is not None:
                self._smoke_test.run(release, canary or release.pin)
            if canary is None:
                self._alias.move(release)
        except Unavailable as error:
            return self._status("pending", release, state, f"smoke test: {error}", retry=True)
        except AtelierError as error:
            if entry is not None:
                self.restore(release, entry, f"smoke test: {error}")
                return None
            return self._status("pending", release, state, f"smoke test failed: {error}")
        self._forget(entry)
        return None

    def _without_release(self, entry: JournalEntry | None, state: RegistryState) -> PromotionStatus:
        """Remove the alias of an adapter that has no release."""
        text = self._restored or f"{self.name} is not released"
        if entry is None and self._restored:
            return PromotionStatus(self.name, "restored", text)
        if state.unavailable or self.registry is None:
            text = f"{text}; alias {self.environment} will be removed later: {state.problem}"
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
            raise Unavailable("the registry is unavailable")
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
        """Return the status; its message has the released version, the alias and the reason."""
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
