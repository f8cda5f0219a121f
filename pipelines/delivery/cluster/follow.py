"""Move the environment's alias to the releases of a cluster, once they serve.

`AliasFollower.follow` waits until every replica and gateway serves the release of an adapter, runs
the smoke test and moves the alias. Hooks take a lock and read the release again before they move
the alias, so that two hooks cannot undo each other's work. If MLflow is unavailable, the smoke test
compares no images, and a later `follow_all` moves the alias.
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
    cached,
    release_readiness,
    retirement_readiness,
)
from pipelines.delivery.smoke import Smoke, SmokeTest

logger = logging.getLogger("pipelines.delivery.cluster.hook")

FAILING: Final = (
    20.0  # seconds that a failure must last, because a fetch is tried again within them
)
LOCK_WAIT: Final = LEASE_SECONDS + 30.0  # seconds; the lock of a killed hook expires earlier
LOOK: Final = 0.5  # seconds between two readings of releases and reports


@dataclass(frozen=True)
class HookResult:
    """The result for one adapter."""

    text: str
    failed: bool = False


class AliasFollower:
    """Moves one environment's alias to its serving releases."""

    def __init__(
        self,
        environment: Environment,
        registry: Callable[[], Registry],  # raises Unavailable
        lock: Callable[[str], LeaseLock],  # the lock of an adapter
        *,
        alias: str,
        smoke: Smoke | None,  # None: no smoke test
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

    def follow(self, name: str, *, wait: float) -> HookResult:
        """Wait until the adapter's release serves, then move the alias to its version.

        Raises BadInput if there is no release, Refused if the smoke test fails or the release is
        unreadable, Unavailable if the API server or the gateway still does not respond
        after `wait` seconds.
        """
        end = self._clock() + wait
        while True:
            release, readiness = self._wait_until_ready(name, end)
            label = f"{name}@{release.version}"
            if readiness.state != "ready":
                return HookResult(f"{label} does not serve: {readiness.detail}", failed=True)
            state = self._registry_state(name, release)
            if decide(release, None, readiness, state.alias) is NextStep.VERIFY:
                self._verify(release, release.pin, state, end)
            if release.canary is not None:  # always, because no alias records its verification
                self._verify(release, release.canary, state, end)
            result = self._move(release, state)
            if result is not None:
                return result
            logger.info("%s: another version was released meanwhile", name)

    def follow_all(self) -> list[HookResult]:
        """Move the alias of every adapter that serves, and remove aliases of retired adapters.

        It waits for no adapter. An error of one adapter does not affect the others.
        """
        released = self._environment.releases.read()
        # A ConfigMap has no time of its last change. A release is therefore treated as new, and
        # only reports that are written after this pause are sure to refer to it.
        self._pause(NOTICED + RENEW_SECONDS)
        self._environment = cached(self._environment)  # do not read reports per adapter
        results = []
        for name in sorted({*released.releases, *released.unreadable}):
            try:
                if name in released.unreadable:
                    raise Refused(released.unreadable[name])
                results.append(self._check(released.releases[name], name))
            except AtelierError as error:
                results.append(HookResult(f"{name}: {error}", failed=True))
        try:
            names = set(self._registry().adapters())
        except Unavailable as error:
            return [*results, HookResult(f"aliases of retired adapters are removed later: {error}")]
        for name in sorted(names - set(released.releases) - set(released.unreadable)):
            try:
                results += self._remove_alias(name)
            except AtelierError as error:
                results.append(HookResult(f"{name}: {error}", failed=True))
        return results

    def _check(self, release: Release, name: str) -> HookResult:
        """Move the alias of one adapter if its release serves now."""
        label = f"{name}@{release.version}"
        state, readiness = self._registry_state(name, release), self._readiness(release)
        step = decide(release, None, readiness, state.alias)
        if step is NextStep.WAIT:
            return HookResult(
                f"{label} does not serve yet: {readiness.detail}", readiness.state == "failed"
            )
        if step is NextStep.NOTHING and not state.problem:
            return HookResult(f"{label}: {step.value}; {readiness.detail}")
        if step is NextStep.VERIFY and not state.problem:
            self._verify(release, release.pin, state, self._clock())
        result = self._move(release, state)
        return result or HookResult(f"{name}: another version was released meanwhile")

    def _remove_alias(self, name: str) -> list[HookResult]:
        """Remove the alias of an adapter without a release, once no process serves it."""
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
        return [HookResult(f"{name} is retired: alias {self._name} is removed")]

    def _wait_until_ready(self, name: str, end: float) -> tuple[Release, Readiness]:
        """Wait until the release serves, has failed for FAILING seconds, or `end` is reached."""
        failing: tuple[tuple[Pin, Canary | None], float] | None = (
            None  # the pins, and when the failure began
        )
        logged = ""
        while True:
            now = self._clock()
            try:
                release = self._release(name)
                if release is None:
                    raise BadInput(
                        f"{name}: there is no ConfigMap release-{name}; release the adapter first"
                    )
                readiness = self._readiness(release)
            except Unavailable as error:  # a short outage of the API server
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
        """Return the readiness of the release and of its canary."""
        readiness = release_readiness(self._environment, release)
        if release.canary is None or readiness.state != "ready":
            return readiness
        canary = release_readiness(self._environment, release, canary=True)
        detail = f"canary version {release.canary.version}: {canary.detail}"
        return readiness if canary.state == "ready" else Readiness(canary.state, detail)

    def _verify(self, release: Release, pin: Pin, state: RegistryState, end: float) -> None:
        """Run the smoke test; try again until `end` while the gateway is busy or unavailable."""
        if self._smoke_test is None:
            logger.warning("no smoke test: ATELIER_KEY is not set")
            return
        retrying = Retrying(
            retry=retry_if_exception_type(Unavailable),
            wait=wait_fixed(LOOK),
            stop=lambda _: self._clock() >= end,
            sleep=self._pause,
            reraise=True,
        )
        retrying(self._smoke_test.run, release, pin, compare=not state.problem)

    def _move(self, release: Release, state: RegistryState) -> HookResult | None:
        """Move the alias to the serving version; return None if it is no longer released."""
        name = release.adapter
        label = f"{name}@{release.version} ({release.digest})"
        if state.unavailable:
            return HookResult(
                f"{label} serves; MLflow is unavailable, so alias {self._name} moves later: "
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
            return HookResult(f"{label} serves; alias {self._name} moves later: {error}")
        return HookResult(f"{label} serves, and alias {self._name} names it")

    def _registry_state(self, name: str, release: Release | None) -> RegistryState:
        try:
            registry = self._registry()
        except Unavailable as error:
            return RegistryState(problem=str(error), unavailable=True)
        return registry_state(registry, name, self._name, release)

    def _release(self, name: str) -> Release | None:
        """Read an adapter's release; raise Refused if it is unreadable."""
        try:
            return self._environment.releases.find(name)
        except ReleaseError as error:
            raise Refused(str(error)) from error
