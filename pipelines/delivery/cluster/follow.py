"""Follows releases on a cluster with the environment's alias, once they serve.

For one adapter it waits until every replica and gateway answers by the release, has judged images
drawn again, and moves the alias. A lock among hooks, and a last look at the release under it, keep
two hooks from undoing each other's work. With MLflow away there is nothing to compare with, and the
alias is left to a later `every`.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tenacity import Retrying, retry_if_exception_type, wait_fixed

from atelier.data.release import Canary, Pin, Release
from atelier.errors import AtelierError, BadInput, Refused, ReleaseError, Unavailable
from atelier.platform import LeaseLock
from atelier.platform.lease_lock import LEASE_SECONDS
from atelier.platform.report_leases import RENEW_SECONDS
from atelier.stores.environment import Environment
from atelier.stores.registry import Registry
from pipelines.delivery.alias import (
    AliasWriter,
    JournalEntry,
    NextStep,
    RegistryState,
    decide,
    registry_state,
)
from pipelines.delivery.readiness import (
    NOTICED,
    Readiness,
    lately,
    release_readiness,
    retirement_readiness,
)
from pipelines.delivery.smoke import Smoke, SmokeTest

logger = logging.getLogger("pipelines.delivery.cluster.hook")

FAILING: Final = 20.0  # seconds that a failure has to last: a fetch is tried again within that
LOCK_WAIT: Final = LEASE_SECONDS + 30.0  # so that a killed hook's lock is taken over
LOOK: Final = 0.5  # seconds between two readings of releases and reports


@dataclass(frozen=True)
class HookResult:
    """The result for one adapter."""

    text: str
    failed: bool = False


class AliasFollower:
    """Moves one environment's alias after its releases."""

    def __init__(
        self,
        environment: Environment,
        registry: Callable[[], Registry],  # Unavailable where it is away
        lock: Callable[[str], LeaseLock],  # by adapter
        *,
        alias: str,
        smoke: Smoke | None,  # None: no image is drawn
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ):
        self._environment = environment
        self._registry = registry
        self._lock = lock
        self._name = alias
        self._alias = AliasWriter(registry, alias)
        self._smoke_test = SmokeTest(registry, self._alias, smoke) if smoke else None
        self._clock, self._pause = clock, pause

    def one(self, name: str, *, wait: float) -> HookResult:
        """Wait until the adapter's release serves, then let the alias name its version."""
        end = self._clock() + wait
        while True:
            release, readiness = self._follow(name, end)
            label = f"{name}@{release.version}"
            if readiness.state != "ready":
                return HookResult(f"{label} does not serve: {readiness.detail}", failed=True)
            state = self._registry_state(name, release)
            if decide(release, None, readiness, state.alias) is NextStep.VERIFY:
                self._verify(release, release.pin, state, end)
            if release.canary is not None:  # no alias would say that it was verified
                self._verify(release, release.canary, state, end)
            moved = self._move(release, state)
            if moved is not None:
                return moved
            logger.info("%s: another version was released meanwhile", name)

    def every(self) -> list[HookResult]:
        """Do for every adapter what can be done now, and remove aliases that are left over.

        It waits for no adapter, and an error of one does not affect the others.
        """
        released = self._environment.releases.read()
        # A ConfigMap does not say since when it has been there. So a release counts as made now,
        # and only reports written after this pause are about it.
        self._pause(NOTICED + RENEW_SECONDS)
        self._environment = lately(self._environment)  # read once for thousands of adapters
        results = []
        for name in sorted({*released.releases, *released.unreadable}):
            try:
                if name in released.unreadable:
                    raise Refused(released.unreadable[name])
                results.append(self._now(released.releases[name], name))
            except AtelierError as error:
                results.append(HookResult(f"{name}: {error}", failed=True))
        try:
            names = set(self._registry().adapters())
        except Unavailable as error:
            return [*results, HookResult(f"retired adapters are looked for later: {error}")]
        for name in sorted(names - set(released.releases) - set(released.unreadable)):
            try:
                results += self._retired(name)
            except AtelierError as error:
                results.append(HookResult(f"{name}: {error}", failed=True))
        return results

    def _now(self, release: Release, name: str) -> HookResult:
        label = f"{name}@{release.version}"
        state, readiness = self._registry_state(name, release), self._readiness(release)
        step = decide(release, None, readiness, state.alias)
        if step is NextStep.WAIT:
            return HookResult(f"{label} waits: {readiness.detail}", readiness.state == "failed")
        if step is NextStep.NOTHING and not state.problem:
            return HookResult(f"{label}: {step.value}; {readiness.detail}")
        if step is NextStep.VERIFY and not state.problem:
            self._verify(release, release.pin, state, self._clock())
        moved = self._move(release, state)
        return moved or HookResult(f"{name}: another version was released meanwhile")

    def _retired(self, name: str) -> list[HookResult]:
        """Remove the alias of an adapter that nobody serves any more."""
        state = self._registry_state(name, None)
        readiness = retirement_readiness(self._environment, name)
        if state.alias is None:
            return []
        step = decide(None, JournalEntry(adapter=name, doing="retire"), readiness, state.alias)
        if step is not NextStep.UNALIAS:
            return [HookResult(f"{name} is retired: {readiness.detail}")]
        with self._lock(name).held(wait=LOCK_WAIT):
            if self._release(name) is not None:
                return [HookResult(f"{name} is released again")]
            self._alias.remove(name)
        return [HookResult(f"{name} is retired: alias {self._name} names nothing any more")]

    def _follow(self, name: str, end: float) -> tuple[Release, Readiness]:
        """Until the release serves, or has failed for some time, or the time is over."""
        failing: tuple[tuple[Pin, Canary | None], float] | None = None  # which pins, since when
        logged = ""
        while True:
            now = self._clock()
            try:
                release = self._release(name)
                if release is None:
                    raise BadInput(f"{name}: there is no ConfigMap release-{name} here to follow")
                readiness = self._readiness(release)
            except Unavailable as error:  # an API server that is away for a moment
                if now >= end:
                    raise
                readiness, release = Readiness("absent", str(error)), None
            if readiness.detail != logged:
                logger.info("%s: %s", name, readiness.detail)
                logged = readiness.detail
            if release is not None:
                pins = (release.pin, release.canary)
                if readiness.state != "failed":
                    failing = None
                elif failing is None or failing[0] != pins:
                    failing = (pins, now)
                failed = failing is not None and now - failing[1] >= FAILING
                if readiness.state == "ready" or failed or now >= end:
                    return release, readiness
            self._pause(LOOK)

    def _readiness(self, release: Release) -> Readiness:
        """The release serves where its version does, and its canary too."""
        readiness = release_readiness(self._environment, release)
        if release.canary is None or readiness.state != "ready":
            return readiness
        canary = release_readiness(self._environment, release, canary=True)
        detail = f"canary version {release.canary.version}: {canary.detail}"
        return readiness if canary.state == "ready" else Readiness(canary.state, detail)

    def _verify(self, release: Release, pin: Pin, state: RegistryState, end: float) -> None:
        """Draw through the gateway; try again while it is busy or away."""
        if self._smoke_test is None:
            logger.warning("no picture is made: ATELIER_KEY is not set")
            return
        drawing = Retrying(
            retry=retry_if_exception_type(Unavailable),
            wait=wait_fixed(LOOK),
            stop=lambda _: self._clock() >= end,
            sleep=self._pause,
            reraise=True,
        )
        drawing(self._smoke_test.run, release, pin, compare=not state.problem)

    def _move(self, release: Release, state: RegistryState) -> HookResult | None:
        """Let the alias name the version that serves; None where it is released no longer."""
        name = release.adapter
        label = f"{name}@{release.version} ({release.digest})"
        if state.away:
            return HookResult(
                f"{label} serves; MLflow is away, so alias {self._name} follows later: "
                f"{state.problem}"
            )
        if state.problem:
            return HookResult(f"{label}: {state.problem}", failed=True)
        try:
            with self._lock(name).held(wait=LOCK_WAIT):
                now = self._release(name)
                if now is None or (now.pin, now.canary) != (release.pin, release.canary):
                    return None
                self._alias.move(release)
        except Unavailable as error:
            return HookResult(f"{label} serves; alias {self._name} follows later: {error}")
        return HookResult(f"{label} serves, and alias {self._name} names it")

    def _registry_state(self, name: str, release: Release | None) -> RegistryState:
        try:
            registry = self._registry()
        except Unavailable as error:
            return RegistryState(problem=str(error), away=True)
        return registry_state(registry, name, self._name, release)

    def _release(self, name: str) -> Release | None:
        """An adapter's release as it is now; Refused where it cannot be read."""
        try:
            return self._environment.releases.find(name)
        except ReleaseError as error:
            raise Refused(str(error)) from error
