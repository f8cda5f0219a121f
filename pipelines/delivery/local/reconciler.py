"""One writer for an environment's alias: it follows the release, once serving is verified.

The release says what serves; the registry's alias says what was seen serving. A promotion leaves an
intent beside the release while it is under way, so whoever comes next (the promotion itself, the
next command, `serve` at its start) finishes it or takes it back. `decide` knows every case and
touches nothing; `settle` does what it says.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from atelier.data.release import Release, ReleaseFolder
from atelier.errors import AtelierError, BadInput, Unavailable
from atelier.home import Home
from atelier.stores.environment import local
from atelier.stores.registry import Registry
from pipelines.delivery.local.journal import JournalEntry, PromotionJournal
from pipelines.delivery.readiness import Readiness, release_readiness, retirement_readiness

ENVIRONMENT: Final = "local"
ROUNDS: Final = 5  # how often a release may change under our hands before we leave it to the next

State = Literal["serving", "pending", "restored", "retired", "disagrees"]
Smoke = Callable[[str, int], None]  # makes a picture by name and version; raises if it cannot


class NextStep(Enum):
    """What is to be done next about one adapter."""

    NOTHING = "release and alias agree"
    WAIT = "replicas or gateways have not followed yet"
    VERIFY = "check that it serves, then move the alias"
    RESTORE = "the new version failed before it served: take the release back"
    FORGET = "the intent was overtaken or never began"
    UNALIAS = "nothing is released: the alias has nothing to name"


def decide(
    release: Release | None, intent: JournalEntry | None, seen: Readiness, alias: int | None
) -> NextStep:
    """The next step, from what is released, under way, reported and named by the alias.

    Only a promotion is ever taken back by itself: going back (a rollback) must not go forward
    again because a replica stumbles.
    """
    if release is None:
        if intent is not None and intent.doing == "retire":
            return NextStep.WAIT if seen.state == "loading" else NextStep.UNALIAS
        return NextStep.NOTHING if intent is None else NextStep.FORGET
    if intent is not None:
        if not _is_under_way(intent, release):
            return NextStep.FORGET
        steps = {"failed": NextStep.RESTORE, "ready": NextStep.VERIFY}
        return steps.get(seen.state, NextStep.WAIT)
    if alias == release.version and seen.state != "loading":
        return NextStep.NOTHING
    return NextStep.VERIFY if seen.state == "ready" else NextStep.WAIT


def _is_under_way(intent: JournalEntry, release: Release) -> bool:
    """Whether the release is still what the intent made it."""
    if intent.doing == "canary":
        return release.canary is not None and release.canary.digest == intent.digest
    return intent.doing == "promote" and release.digest == intent.digest


@dataclass(frozen=True)
class PromotionStatus:
    """Where an adapter stands after settling. `retry` says whether it may soon stand elsewhere."""

    adapter: str
    state: State
    message: str
    version: int | None = None
    digest: str | None = None
    alias: int | None = None
    retry: bool = False


def reconcile(
    home: Home,
    registry: Registry | None,
    *,
    smoke: Smoke | None = None,
    environment: str = ENVIRONMENT,
) -> list[PromotionStatus]:
    """Bring every adapter of this home as far as it can be brought now. Safe to repeat.

    What a command works on is left to it: it tells its user how that went. One adapter's trouble
    costs the others nothing.
    """
    intents = PromotionJournal(home)
    standings = []
    for name in sorted(ReleaseFolder(home.releases).names() | intents.names()):
        if intents.is_worked_on(name):
            told = f"{name}: another command is working on it"
            standings.append(PromotionStatus(name, "pending", told, retry=True))
            continue
        settler = Reconciler(name, home, registry, smoke=smoke, environment=environment)
        try:
            standings.append(settler.run())
        except AtelierError as error:
            standings.append(PromotionStatus(name, "pending", f"{name}: {error}"))
    return standings


@dataclass(frozen=True)
class RegistryState:
    """What the registry says of an adapter, and what is wrong with that, if anything."""

    alias: int | None = None  # the version that the environment's alias names
    problem: str = ""
    away: bool = False


def registry_state(
    registry: Registry | None, name: str, environment: str, release: Release | None
) -> RegistryState:
    """Which version the alias names, and whether the registry means what the release pins."""
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


class Reconciler:
    """Settles one adapter of one environment."""

    def __init__(
        self,
        name: str,
        home: Home,
        registry: Registry | None,  # None: known to be away
        *,
        smoke: Smoke | None = None,
        environment: str = ENVIRONMENT,
    ):
        self.name = name
        self.home = home
        self.registry = registry
        self.smoke = smoke
        self.environment = environment
        self.releases = ReleaseFolder(home.releases)
        self.intents = PromotionJournal(home)
        self._taken_back = ""  # why, once a promotion failed under our hands

    def run(self) -> PromotionStatus:
        """Take steps until none is left that can be taken now."""
        for _ in range(ROUNDS):
            standing = self._turn()
            if standing is not None:
                return standing
        raise Unavailable(f"{self.name}: its release keeps changing; settle it again")

    def restore(self, release: Release, intent: JournalEntry, why: str) -> None:
        """Serve again what served before the intent, unless somebody changed the release since."""
        with self.intents.locked(self.name):
            if self.releases.get(self.name) != release:
                return
            if intent.doing == "canary":
                self.releases.put(release.with_canary(None, why))
            elif intent.before is None:
                self.releases.remove(self.name)
            else:
                self.releases.put(release.rolled_back(intent.before, why))
            self.intents.remove(self.name)
            self._taken_back = f"version {intent.version} was taken back before it served: {why}"

    def _turn(self) -> PromotionStatus | None:
        """One step; None where it changed something and another look is due."""
        with self.intents.locked(self.name):
            release, intent = self.releases.get(self.name), self.intents.get(self.name)
        known = registry_state(self.registry, self.name, self.environment, release)
        seen = self._seen(release, intent)
        step = decide(release, intent, seen, known.alias)
        if step is NextStep.FORGET:
            self._forget(intent)
            return None
        if release is None and step is NextStep.WAIT:
            told = f"{self.name} is not released; {seen.told}"
            return PromotionStatus(self.name, "pending", told, alias=known.alias, retry=True)
        if release is None:
            return self._without_release(intent, known)
        if step is NextStep.WAIT:
            state: State = "disagrees" if known.problem and not known.away else "pending"
            told = known.problem if state == "disagrees" else seen.told
            return self._standing(state, release, known, told, retry=seen.state == "loading")
        if step is NextStep.RESTORE and intent is not None:
            self.restore(release, intent, seen.told)
            return None
        if known.problem:
            state = "pending" if known.away else "disagrees"
            return self._standing(state, release, known, known.problem)
        if step is NextStep.VERIFY:
            return self._verify(release, intent, known)
        return self._standing("serving", release, known, seen.told)

    def _forget(self, intent: JournalEntry | None) -> None:
        with self.intents.locked(self.name):
            if self.intents.get(self.name) == intent:
                self.intents.remove(self.name)

    def _verify(
        self, release: Release, intent: JournalEntry | None, known: RegistryState
    ) -> PromotionStatus | None:
        """Make the smoke picture, then move the alias. A canary moves none: most is not its own."""
        canary = release.canary if intent is not None and intent.doing == "canary" else None
        try:
            if self.smoke is not None:
                self.smoke(self.name, (canary or release).version)
        except Unavailable as error:
            return self._standing("pending", release, known, f"smoke check: {error}", retry=True)
        except AtelierError as error:
            if intent is not None:
                self.restore(release, intent, f"smoke check: {error}")
                return None
            return self._standing("pending", release, known, f"smoke check failed: {error}")
        if canary is None and self.registry is not None:
            try:
                self.registry.set_alias(self.name, self.environment, release.version)
            except Unavailable as error:
                return self._standing("pending", release, known, str(error))
        self._forget(intent)
        return None

    def _without_release(
        self, intent: JournalEntry | None, known: RegistryState
    ) -> PromotionStatus:
        """Nothing is served any more, so the alias goes too."""
        text = self._taken_back or f"{self.name} is not released"
        if intent is None and self._taken_back:
            return PromotionStatus(self.name, "restored", text)
        if known.away or self.registry is None:
            text = f"{text}; alias {self.environment} is still to be removed: {known.problem}"
            return PromotionStatus(self.name, "pending", text, alias=known.alias)
        try:
            if known.alias is not None:
                self.registry.remove_alias(self.name, self.environment)
        except Unavailable as error:
            return PromotionStatus(self.name, "pending", f"{text}; {error}", alias=known.alias)
        self._forget(intent)
        return PromotionStatus(self.name, "retired", text)

    def _seen(self, release: Release | None, intent: JournalEntry | None) -> Readiness:
        place = local(self.home)
        if release is None:
            return retirement_readiness(place, self.name)
        return release_readiness(
            place, release, canary=intent is not None and intent.doing == "canary"
        )

    def _standing(
        self,
        state: State,
        release: Release,
        known: RegistryState,
        told: str,
        *,
        retry: bool = False,
    ) -> PromotionStatus:
        """In words: what is released, what the alias names, and why."""
        alias = "no version" if known.alias is None else f"version {known.alias}"
        if self._taken_back:
            state, told = "restored", f"{self._taken_back}; {told}"
        serves = f"version {release.version} is released, alias {self.environment} names {alias}"
        return PromotionStatus(
            self.name,
            state,
            f"{self.name}: {serves}: {told}",
            version=release.version,
            digest=release.digest,
            alias=known.alias,
            retry=retry and not self._taken_back,
        )
