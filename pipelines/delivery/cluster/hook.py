"""Moves the alias of an environment: `python -m pipelines.delivery.cluster.hook NAME`.

charts/adapter runs it after `helm install`, `helm upgrade` and `helm rollback`: it waits until
every replica and gateway answers by the release, has pictures of the version's verdict made again
through the gateway (with the key ATELIER_KEY; without one it stops there, unless
ATELIER_SMOKE_REQUIRED is `false`), and of its canary's, which have to come out as they were judged
(to ATELIER_SMOKE_TOLERANCE), and then lets the environment's alias name the version. What the alias
has named before is a way back: pixels that differ are told and stop nothing. A lock among hooks,
and a last look at the release under it, keep two of them from undoing each other's work. With
MLflow away there is nothing to compare with, and the alias is left to a later `--all`, which also
takes away the aliases of adapters that are no longer released.

Exit codes: 0 done, or only MLflow is away; 1 it does not serve, or release and registry disagree;
2 bad input; 3 the API server or the gateway is away; 143 stopped by SIGTERM.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from atelier.boundary import answered
from atelier.data.release import Canary, Pin, Release
from atelier.errors import AtelierError, BadInput, Interrupted, Refused, Unavailable
from atelier.home import Home
from atelier.platform import Api, LeaseLock, listing
from atelier.platform.lease_lock import LEASE_SECONDS
from atelier.platform.report_leases import RENEW_SECONDS
from atelier.stores.environment import Environment, Released
from atelier.stores.registry import Registry
from pipelines.delivery.image_similarity import TOLERANCE, ImageMismatch
from pipelines.delivery.local.journal import JournalEntry
from pipelines.delivery.local.reconciler import NextStep, RegistryState, decide, registry_state
from pipelines.delivery.readiness import NOTICED, Readiness, release_readiness, retirement_readiness
from pipelines.delivery.smoke import Smoke, gateway_smoke
from pipelines.evaluate.attestations import JudgedImage, samples

logger = logging.getLogger("pipelines.delivery.cluster.hook")

WAIT = 300.0  # seconds for replicas to fetch, verify and load a package, gateways to follow
FAILING = 20.0  # seconds that a failure has to last: a fetch is tried again within that
LOCK_WAIT = LEASE_SECONDS + 30.0  # so a lock that a killed hook left behind is taken over
LOOK = 0.5  # seconds between two looks


@dataclass(frozen=True)
class HookResult:
    """How it ended for one adapter."""

    text: str
    failed: bool = False


class Hook:
    """Follows releases with an environment's alias."""

    def __init__(
        self,
        place: Environment,
        registry: Callable[[], Registry],  # Unavailable where it is away
        lock: Callable[[str], LeaseLock],  # by adapter
        *,
        environment: str,
        smoke: Smoke | None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ):
        self._place = place
        self._registry = registry
        self._lock = lock
        self._environment = environment
        self._smoke = smoke
        self._clock, self._pause = clock, pause

    def one(self, name: str, *, wait: float) -> HookResult:
        """Wait until the adapter's release serves, then let the alias name it."""
        end = self._clock() + wait
        while True:
            release, seen = self._follow(name, end)
            if seen.state != "ready":
                return HookResult(
                    f"{name}@{release.version} does not serve: {seen.told}", failed=True
                )
            known = self._known(name, release)
            if decide(release, None, seen, known.alias) is NextStep.VERIFY:
                self._draw(release, release.pin, known, end)
            if release.canary is not None:  # no alias would tell that it was drawn
                self._draw(release, release.canary, known, end)
            moved = self._move(release, known)
            if moved is not None:
                return moved
            logger.info("%s: another version was released meanwhile", name)

    def every(self) -> list[HookResult]:
        """What can be done now for every adapter, waiting for none; and aliases that are left
        over. One adapter's trouble costs the others nothing."""
        released = self._released()
        # a ConfigMap does not say since when, so what is read counts as released just now, and
        # only what replicas say after this is about it
        self._pause(NOTICED + RENEW_SECONDS)
        outcomes = []
        for name in sorted({*released.releases, *released.unreadable}):
            try:
                outcomes.append(self._now(self._release(released, name), name))
            except AtelierError as error:
                outcomes.append(HookResult(f"{name}: {error}", failed=True))
        try:
            names = set(self._registry().adapters())
        except Unavailable as error:
            return [*outcomes, HookResult(f"retired adapters are looked for later: {error}")]
        for name in sorted(names - set(released.releases) - set(released.unreadable)):
            try:
                outcomes += self._retired(name)
            except AtelierError as error:
                outcomes.append(HookResult(f"{name}: {error}", failed=True))
        return outcomes

    def _now(self, release: Release | None, name: str) -> HookResult:
        assert release is not None
        known, seen = self._known(name, release), self._seen(release)
        step = decide(release, None, seen, known.alias)
        if step is NextStep.WAIT:
            return HookResult(
                f"{name}@{release.version} waits: {seen.told}", seen.state == "failed"
            )
        if step is NextStep.NOTHING and not known.problem:
            return HookResult(f"{name}@{release.version}: {step.value}; {seen.told}")
        if step is NextStep.VERIFY and not known.problem:
            self._draw(release, release.pin, known, self._clock())
        moved = self._move(release, known)
        return moved or HookResult(f"{name}: another version was released just now; the next look")

    def _retired(self, name: str) -> list[HookResult]:
        """Take away the alias of an adapter that nobody serves any more."""
        known, seen = self._known(name, None), retirement_readiness(self._place, name)
        if known.alias is None:
            return []
        step = decide(None, JournalEntry(adapter=name, doing="retire"), seen, known.alias)
        if step is not NextStep.UNALIAS:
            return [HookResult(f"{name} is retired: {seen.told}")]
        with self._lock(name).held(wait=LOCK_WAIT):
            if name in self._released().releases:
                return [HookResult(f"{name} is released again")]
            self._registry().remove_alias(name, self._environment)
        return [HookResult(f"{name} is retired: alias {self._environment} names nothing any more")]

    def _follow(self, name: str, end: float) -> tuple[Release, Readiness]:
        """Until what is released serves, or has failed for some time, or the time is over."""
        failing: tuple[tuple[Pin, Canary | None], float] | None = None  # what, since when
        told = ""
        while True:
            now = self._clock()
            try:
                release = self._release(self._released(), name)
                if release is None:
                    raise BadInput(f"{name}: there is no ConfigMap release-{name} here to follow")
                seen = self._seen(release)
            except Unavailable as error:  # an API server that is away for a moment
                if now >= end:
                    raise
                seen, release = Readiness("absent", str(error)), None
            if seen.told != told:
                logger.info("%s: %s", name, seen.told)
                told = seen.told
            if release is not None:
                pins = (release.pin, release.canary)
                if seen.state != "failed":
                    failing = None
                elif failing is None or failing[0] != pins:
                    failing = (pins, now)
                failed = failing is not None and now - failing[1] >= FAILING
                if seen.state == "ready" or failed or now >= end:
                    return release, seen
            self._pause(LOOK)

    def _seen(self, release: Release) -> Readiness:
        """The release serves where its version does, and its canary too."""
        seen = release_readiness(self._place, release)
        if release.canary is None or seen.state != "ready":
            return seen
        canary = release_readiness(self._place, release, canary=True)
        told = f"canary version {release.canary.version}: {canary.told}"
        return seen if canary.state == "ready" else Readiness(canary.state, told)

    def _draw(self, release: Release, pin: Pin, known: RegistryState, end: float) -> None:
        """Pictures through the gateway; tried again while it is busy or away."""
        if self._smoke is None:
            logger.warning("no picture is made: ATELIER_KEY is not set")
            return
        judged = self._judged(release, pin, known)
        while True:
            try:
                logger.info("%s", self._smoke(release, pin, judged))
                return
            except ImageMismatch as error:
                if not self._has_served(release, pin):
                    raise
                logger.warning("%s (it has served here before, so it may again)", error)
                return
            except Unavailable:
                if self._clock() >= end:
                    raise
            self._pause(LOOK)

    def _judged(self, release: Release, pin: Pin, known: RegistryState) -> tuple[JudgedImage, ...]:
        """Pictures of the version's verdict; none without one, or with MLflow away."""
        if known.problem:
            return ()
        try:
            base, vae = release.base, release.vae
            return samples(self._registry(), release.adapter, pin, base=base, vae=vae)
        except Unavailable:
            return ()

    def _has_served(self, release: Release, pin: Pin) -> bool:
        """Whether the alias has named it, drawn with this base and VAE."""
        mark = self._mark(release).items()
        return mark <= self._registry().version(release.adapter, pin.version).tags.items()

    def _mark(self, release: Release) -> dict[str, str]:
        """The tag that a version has from the time when the alias first named it."""
        return {f"atelier.served.{self._environment}": f"{release.base} {release.vae}"}

    def _move(self, release: Release, known: RegistryState) -> HookResult | None:
        """Let the alias name what was seen serving; None where that is released no longer."""
        name, version = release.adapter, release.version
        label = f"{name}@{version} ({release.digest})"
        if known.away:
            return HookResult(
                f"{label} serves; MLflow is away, so alias {self._environment} follows later: "
                f"{known.problem}"
            )
        if known.problem:
            return HookResult(f"{label}: {known.problem}", failed=True)
        try:
            with self._lock(name).held(wait=LOCK_WAIT):
                now = self._release(self._released(), name)
                if now is None or (now.pin, now.canary) != (release.pin, release.canary):
                    return None
                registry = self._registry()
                registry.tag(name, version, self._mark(release))
                registry.set_alias(name, self._environment, version)
        except Unavailable as error:
            return HookResult(f"{label} serves; alias {self._environment} follows later: {error}")
        return HookResult(f"{label} serves, and alias {self._environment} names it")

    def _known(self, name: str, release: Release | None) -> RegistryState:
        try:
            registry = self._registry()
        except Unavailable as error:
            return RegistryState(problem=str(error), away=True)
        return registry_state(registry, name, self._environment, release)

    def _released(self) -> Released:
        return self._place.releases.read()

    def _release(self, released: Released, name: str) -> Release | None:
        if name in released.unreadable:
            raise Refused(released.unreadable[name])
        return released.releases.get(name)


def run(options: argparse.Namespace) -> None:
    """Do what the command line says; Refused where anything failed."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise BadInput("MLFLOW_TRACKING_URI is not set; give the registry's address")
    api = Api.connect()
    holder = os.environ.get("HOSTNAME") or socket.gethostname()
    tracking_uri = Home.find().tracking_uri
    hook = Hook(
        listing(api),
        lambda: Registry(tracking_uri),
        lambda name: LeaseLock(api, f"atelier-alias-{name}", f"{holder}-{os.getpid()}"),
        environment=options.environment,
        smoke=_smoke(options.gateway),
    )
    outcomes = hook.every() if options.all else [hook.one(options.name, wait=options.wait)]
    for one in outcomes:
        logger.log(logging.ERROR if one.failed else logging.INFO, "%s", one.text)
    if failed := [one.text for one in outcomes if one.failed]:
        raise Refused("; ".join(failed))


def _smoke(gateway: str) -> Smoke | None:
    """None only where the environment puts up with no picture at all."""
    key = os.environ.get("ATELIER_KEY")
    if not key and os.environ.get("ATELIER_SMOKE_REQUIRED") == "false":
        return None
    return gateway_smoke(gateway, key, _tolerance()) if key else _no_key


def _tolerance() -> float:
    said = os.environ.get("ATELIER_SMOKE_TOLERANCE") or str(TOLERANCE)
    try:
        found = float(said)
    except ValueError:
        found = math.nan
    if not 0 < found <= 255:
        raise BadInput(f"ATELIER_SMOKE_TOLERANCE={said}: must be levels of 255, more than 0")
    return found


def _no_key(release: Release, pin: Pin, _: Sequence[JudgedImage]) -> str:
    raise BadInput(
        f"no picture of {release.adapter}@{pin.version} can be made: ATELIER_KEY is not set; "
        "keep a key of the gateway in the Secret that the platform's smoke.secret names "
        "(smoke.required=false goes without)"
    )


def main(argv: list[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.delivery.cluster.hook", description=__doc__
    )
    parser.add_argument("name", nargs="?", help="the adapter; none with --all")
    parser.add_argument("--all", action="store_true", help="every adapter, waiting for none")
    parser.add_argument("--environment", required=True, help="the alias")
    parser.add_argument("--gateway", required=True, metavar="URL")
    parser.add_argument("--wait", type=float, default=WAIT, metavar="SECONDS")
    options = parser.parse_args(argv)
    if bool(options.name) == options.all:
        parser.error("give either the adapter's name or --all")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    # the first process of a container ignores SIGTERM unless told, and SIGKILL leaves the lock
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Interrupted.exit_code))
    return answered(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
