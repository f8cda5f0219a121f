"""Promotion, rollback and retirement on a cluster, each safe to be killed anywhere.

`promote` makes the cluster be as git declares: `helm upgrade` of the adapter's release, whose hook
waits until every replica and gateway answers by it, looks at a picture and moves the alias. What
fails is taken back. A promotion that was killed is found by the next one: its lock runs out, the
revision that Helm left pending is taken away, and the upgrade is done again; replicas and gateways
see nothing of it but ConfigMaps, of which each is a whole release.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from atelier.cluster import Api, LeaseLock, listing
from atelier.cluster.api import PODS
from atelier.cluster.helm import Helm, HelmRefused, Revision
from atelier.declaration import Declaration, Declarations, Withdrawn
from atelier.errors import AtelierError, BadInput, Refused, Unavailable
from atelier.registry import Registry
from atelier.release import Pin, Release
from pipelines.rollout.values import release_values, require_served
from pipelines.survey import survey_gone

logger = logging.getLogger(__name__)

PLATFORM: Final = "atelier"  # the platform's Helm release
STEPS: Final = ("check", "lock", "recover", "compare", "upgrade", "confirm")  # of a promotion
LOCK_SECONDS: Final = 20  # after which the lock of a promotion that was killed is free
LOCK_WAIT: Final = 120.0  # seconds
GONE: Final = 120.0  # seconds for replicas and gateways to forget an adapter
LOOK: Final = 1.0  # seconds between two looks
TOLD: Final = 5  # last lines of a hook that failed

Approve = Callable[
    [Registry, str, int], str
]  # the version's digest; Refused where it may not serve


@dataclass(frozen=True)
class Outcome:
    """How it ended for one adapter."""

    adapter: str
    message: str
    release: Release | None
    revision: int | None  # Helm's
    alias: int | None = None  # the version that the environment's alias names; None: not known


class Rollout:
    """The adapters of one environment on a cluster.

    Methods raise Refused where something says no, Unavailable where a service is away, and
    Conflict-like BadInput where git and cluster are not what each other expects.
    """

    def __init__(
        self,
        declarations: Declarations,
        api: Api,
        helm: Helm,
        registry: Callable[[], Registry],  # Unavailable where it is away
        *,
        chart: str,
        approve: Approve,
        holder: str,
        told: Callable[[str], None] = logger.info,  # what is done next
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ):
        self._declarations = declarations
        self._api, self._helm, self._registry = api, helm, registry
        self._chart, self._approve, self._holder, self._told = chart, approve, holder, told
        self._clock, self._pause = clock, pause

    @property
    def environment(self) -> str:
        """Its name, which the alias has."""
        return self._declarations.environment

    def promote(self, name: str) -> Outcome:
        """Make the cluster serve what git declares of an adapter; taken back where it cannot."""
        declared = self._declarations.get(name)
        self._step("check", declared)
        declared.require_wanted()
        registry = self._registry()
        for pin in declared.served:
            self._require_approved(registry, declared, pin)
        self._step("lock", declared)
        with self._lock(name):
            self._step("recover", declared)
            recovered = self._recover(name)
            self._step("compare", declared)
            history, live = self._helm.history(name), self.live(name)
            self._require_expected(declared, live, history)
            done = live is not None and declared.is_live(live) and _is_deployed(history)
            if recovered or not done:
                values = self._values(declared, registry, live, history)
                self._step("upgrade", declared)
                self._upgrade(declared, values, history)
            self._step("confirm", declared)
            return self._confirm(declared)

    def rollback(self, name: str, revision: int | None = None, *, reason: str) -> Outcome:
        """Serve what a past revision served, by default the last good one; git follows.

        Ends a canary where there is one. Asks MLflow nothing.
        """
        with self._lock(name):
            self._recover(name)
            history, live = self._helm.history(name), self.live(name)
            if not history:
                raise BadInput(f"{name}: has no Helm release in {self._api.namespace}")
            target = self._past(name, revision, history, live)
            failed: HelmRefused | None = None
            try:
                self._helm.rollback(name, target, reason)
            except HelmRefused as error:  # the ConfigMap is written before any hook runs
                failed = error  # Helm leaves such a rollback pending: the next promotion recovers
            now = self.record(name, reason=reason, left=live)
            if failed is not None:
                raise Refused(f"{now.message}, but it is not well: {self._why(name, failed)}")
            return now

    def record(self, name: str, *, reason: str, left: Release | None = None) -> Outcome:
        """Write into git's files what the cluster serves; what git said instead is withdrawn.

        `left` is what served until now, where that is known.
        """
        live, history = self.live(name), self._helm.history(name)
        said = self._declarations.find(name)
        if live is None:
            self._declarations.remove(name)
            return Outcome(name, f"{name}: nothing is released; git declares nothing", None, None)
        self._declarations.put(recorded(live, said, left, reason))
        file = self._declarations.path(name)
        text = f"{_label(live)} serves in {self.environment}; commit {file}"
        return Outcome(name, text, live, history[-1].number if history else None)

    def retire(self, name: str) -> Outcome:
        """Stop serving an adapter, wait until nothing answers by it, and take its file away."""
        with self._lock(name):
            if not self._helm.history(name) and self.live(name) is None:
                self._declarations.remove(name)
                return Outcome(name, f"{name}: is not released in {self.environment}", None, None)
            self._helm.uninstall(name)
            place, end = listing(self._api), self._clock() + GONE
            while (seen := survey_gone(place, name)).state != "absent":
                if self._clock() >= end:
                    raise Unavailable(f"{name}: its release is gone, but {seen.told}")
                self._pause(LOOK)
            self._declarations.remove(name)
        text = (
            f"{name} is retired; the platform's CronJob takes alias {self.environment} away. "
            f"Commit the removal of {self._declarations.path(name)}"
        )
        return Outcome(name, text, None, None)

    def live(self, name: str) -> Release | None:
        """What the cluster is told to serve; Refused where that cannot be read."""
        released = listing(self._api).releases.read()
        if name in released.unreadable:
            raise Refused(f"{released.unreadable[name]}; roll back, or retire the adapter")
        return released.releases.get(name)

    def _require_approved(self, registry: Registry, declared: Declaration, pin: Pin) -> None:
        found = self._approve(registry, declared.adapter, pin.version)
        if found != pin.digest:
            raise Refused(
                f"{declared.adapter}@{pin.version}: git declares {pin.digest}, but the registry "
                f"has {found}; propose the version again"
            )

    def _require_expected(
        self, declared: Declaration, live: Release | None, history: tuple[Revision, ...]
    ) -> None:
        """Refused where the file was written for another state of the cluster."""
        expected = [declared.pin, *([declared.replaces] if declared.replaces else [])]
        if live is None:
            if declared.replaces is None:
                return
            serves = "nothing"
        elif live.pin in expected:
            return
        else:
            last = f" (Helm revision {history[-1].number}: {history[-1].description})"
            serves = f"version {live.version}{last if history else ''}"
        file = self._declarations.path(declared.adapter)
        replaced = f"version {declared.replaces.version}" if declared.replaces else "nothing"
        raise Refused(
            f"{declared.adapter}: {file} declares version {declared.version} in place of "
            f"{replaced}, but {self.environment} serves {serves}; `atelier record "
            f"{declared.adapter} --environment {self.environment}` writes down what serves, then "
            "propose the version again"
        )

    def _values(
        self,
        declared: Declaration,
        registry: Registry,
        live: Release | None,
        history: tuple[Revision, ...],
    ) -> dict[str, Any]:
        platform = self._helm.values(PLATFORM, all_=True)
        require_served(declared, platform)
        known = self._helm.values(declared.adapter).get("manifests", {}) if history else {}

        def manifest(pin: Pin) -> str:
            text = known.get(pin.digest) or registry.manifest_text(declared.adapter, pin.version)
            return str(text)

        since = history[-1] if history else None
        return release_values(declared, platform, live, since, manifest)

    def _upgrade(
        self, declared: Declaration, values: dict[str, Any], history: tuple[Revision, ...]
    ) -> None:
        name = declared.adapter
        try:
            self._helm.upgrade(name, self._chart, values, declared.reason)
        except HelmRefused as error:
            why = self._why(name, error)
            self._told(f"{name}@{declared.version}: {why}")
            raise Refused(f"{self._restored(declared, history)}: {why}") from error

    def _restored(self, declared: Declaration, history: tuple[Revision, ...]) -> str:
        """Take a promotion back; how that went."""
        name = declared.adapter
        label = f"{name}@{declared.version} is taken back"
        good = next((one.number for one in reversed(history) if one.served), None)
        if good is None:
            self._helm.uninstall(name)
            return f"{label}, nothing serves as before"
        try:
            self._helm.rollback(name, good, f"{declared.version} did not serve")
        except HelmRefused as error:
            return f"{label} to revision {good}, which is not well ({error})"
        return f"{label}, revision {good} serves as before"

    def _confirm(self, declared: Declaration) -> Outcome:
        live, history = self.live(declared.adapter), self._helm.history(declared.adapter)
        if live is None or not declared.is_live(live):
            found = _label(live) if live else "nothing"
            raise Refused(
                f"{declared.adapter}: {found} serves, though git declares {declared.version}: "
                "somebody else is at it; run this again"
            )
        text = f"{_label(live)} serves in {self.environment}"
        try:
            alias = self._alias(declared.adapter)
        except Unavailable as error:
            alias, text = None, f"{text}; its alias follows later: {error}"
        else:
            if alias != live.version:
                text = f"{text}; alias {self.environment} names {alias}, and follows later"
        return Outcome(declared.adapter, text, live, history[-1].number, alias)

    def _alias(self, name: str) -> int | None:
        versions = self._registry().versions(name)
        return next((one.version for one in versions if self.environment in one.aliases), None)

    def _past(
        self,
        name: str,
        revision: int | None,
        history: tuple[Revision, ...],
        live: Release | None,
    ) -> int:
        """The revision to go back to."""
        past = [one for one in reversed(history[:-1]) if one.served]
        if revision is not None:
            if all(one.number != revision for one in past):
                known = ", ".join(str(one.number) for one in past) or "none"
                raise BadInput(f"{name}: has no revision {revision} that served; known are {known}")
            return revision
        said = self._declarations.find(name)
        bad = {one.digest for one in said.withdrawn} if said else set()
        if live is not None:
            bad.add(live.canary.digest if live.canary else live.digest)
        for one in past:
            values = self._helm.values(name, one.number)
            if not {values["digest"], (values.get("canary") or {}).get("digest")} & bad:
                return one.number
        raise Refused(
            f"{name}: none of its {len(history)} known revisions serves another version that was "
            "not withdrawn; name a revision, or `atelier retire` it"
        )

    def _why(self, name: str, error: HelmRefused) -> str:
        """What the hook said last, which says more than that it failed."""
        with_job = [("labelSelector", f"batch.kubernetes.io/job-name=hook-{name}")]
        try:
            pods, _ = self._api.list(PODS, with_job)
            newest = max(pods, key=lambda one: one["metadata"]["creationTimestamp"], default=None)
            if newest is None:
                return str(error)
            lines = list(self._api.log(PODS, newest["metadata"]["name"], "hook"))
        except AtelierError:
            return str(error)
        told = [line.partition(" ")[2] for line in lines[-TOLD:]]
        return f"{error}; the hook said: {' / '.join(told)}" if told else str(error)

    def _recover(self, name: str) -> bool:
        """Whether there was anything to recover."""
        done = self._helm.recover(name)
        if done:
            self._told(done)
        return bool(done)

    def _lock(self, name: str) -> Any:
        lock = LeaseLock(
            self._api, f"atelier-rollout-{name}", self._holder, seconds=LOCK_SECONDS, renewed=True
        )
        return lock.held(wait=LOCK_WAIT)

    def _step(self, step: str, declared: Declaration) -> None:
        self._told(f"{declared.adapter}@{declared.version}: {step}")


def recorded(
    live: Release, said: Declaration | None, left: Release | None, reason: str
) -> Declaration:
    """What serves as a declaration; whatever `said` or `left` served beyond it is withdrawn."""
    serves = {live.digest, *([live.canary.digest] if live.canary else [])}
    before = [*(said.served if said else ()), *([left.pin] if left else ())]
    before += [left.canary] if left and left.canary else []
    gone = {one.digest: one for one in before if one.digest not in serves}
    withdrawn = [
        Withdrawn(version=one.version, digest=one.digest, reason=reason) for one in gone.values()
    ]
    known = said.withdrawn if said else ()
    withdrawn += [one for one in known if one.digest not in serves and one.digest not in gone]
    replaces = left.pin if left else said.pin if said else None
    return Declaration(
        adapter=live.adapter,
        version=live.version,
        digest=live.digest,
        base=live.base,
        vae=live.vae,
        canary=live.canary,
        replaces=replaces if replaces != live.pin else (said.replaces if said else None),
        withdrawn=tuple(withdrawn),
        reason=reason,
    )


def _is_deployed(history: tuple[Revision, ...]) -> bool:
    return bool(history) and history[-1].status == "deployed"


def _label(live: Release) -> str:
    canary = live.canary
    share = f" and @{canary.version} to {canary.percent} % of its calls" if canary else ""
    return f"{live.adapter}@{live.version} ({live.digest}){share}"
