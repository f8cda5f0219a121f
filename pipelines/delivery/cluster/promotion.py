"""Promotion, rollback and retirement on a cluster, each safe to be killed anywhere.

`promote` makes the cluster be as git declares: `helm upgrade` of the adapter's release, whose hook
waits until every replica and gateway answers by it, looks at a picture and moves the alias. What
fails is taken back. A promotion that was killed is found by the next one: its lock runs out, the
revision that Helm left pending is taken away, and the upgrade is done again; replicas and gateways
see nothing of it but ConfigMaps, of which each is a whole release.
"""

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from atelier.data.declaration import Declaration, Declarations, Withdrawn, reason_of
from atelier.data.release import Pin, Release
from atelier.errors import AtelierError, BadInput, Refused, Unavailable
from atelier.platform import Api, ClusterAway, LeaseLock, listing
from atelier.platform.api import CONFIG_MAPS, PODS
from atelier.platform.helm import Helm, HelmRefused, Revision, back_to
from atelier.platform.lease_lock import HeldLease
from atelier.platform.release_configmaps import PREFIX as RELEASE_PREFIX
from atelier.stores.registry import Registry
from pipelines.delivery.cluster.helm_values import drawn_by, release_values, require_served
from pipelines.delivery.cluster.rollback import (
    RevisionRelease,
    left_behind,
    release_of,
    target,
    unrecorded,
)
from pipelines.delivery.readiness import retirement_readiness

logger = logging.getLogger(__name__)

PLATFORM: Final = "atelier"  # the platform's Helm release
STEPS: Final = ("check", "lock", "recover", "compare", "upgrade", "confirm")  # of a promotion
LOCK_SECONDS: Final = 20  # after which the lock of a promotion that was killed is free
LOCK_WAIT: Final = 120.0  # seconds
OVERTAKE_WAIT: Final = 1800.0  # seconds that a rollback waits for a promotion: longer than Helm's
GONE: Final = 120.0  # seconds for replicas and gateways to forget an adapter
LOOK: Final = 1.0  # seconds between two looks
TOLD: Final = 5  # last lines of a hook that failed

Approve = Callable[
    [Registry, str, int], str
]  # the version's digest; Refused where it may not serve


@dataclass(frozen=True)
class PromotionOutcome:
    """How it ended for one adapter."""

    adapter: str
    message: str
    release: Release | None
    revision: int | None  # Helm's
    alias: int | None = None  # the version that the environment's alias names; None: not known


class ClusterDelivery:
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

    def promote(self, name: str) -> PromotionOutcome:
        """Make the cluster serve what git declares of an adapter; taken back where it cannot."""
        declared = self._declarations.get(name)
        self._step("check", declared)
        declared.require_wanted()
        registry = self._registry()
        for pin in declared.served:
            self._require_approved(registry, declared, pin)
        self._step("lock", declared)
        with self._lock(name) as lock:
            self._step("recover", declared)
            self._require_not_left(declared)
            recovered = self._recover(name)
            self._step("compare", declared)
            history, live = self._helm.history(name), self.live(name)
            self._require_expected(declared, live, history)
            done = live is not None and declared.is_live(live) and _is_deployed(history)
            if recovered or not done:
                values = self._values(declared, registry, live, history)
                self._step("upgrade", declared)
                lock.require()
                self._upgrade(declared, values, history, lock)
            self._step("confirm", declared)
            return self._confirm(declared)

    def rollback(self, name: str, revision: int | None = None, *, reason: str) -> PromotionOutcome:
        """Serve what a past revision served, by default the last good one; git follows.

        Ends a canary where there is one, and what a killed promotion or rollback began. Asks MLflow
        nothing, and waits for a promotion that is under way.
        """
        reason = reason_of(reason)  # before anything is done: git has to be able to keep it
        with self._lock(name, wait=OVERTAKE_WAIT) as lock:
            cut_off = self._recover(name)
            known = self._known(name)
            if not known:
                raise BadInput(f"{name}: has no Helm release in {self._api.namespace}")
            left = left_behind(known, self._readable(name), cut_off)
            said = self._declarations.find(name)
            back = target(
                name,
                known,
                left,
                withdrawn=[one.digest for one in said.withdrawn] if said else [],
                bases=drawn_by(self._helm.values(PLATFORM, all_=True)),
                revision=revision,
            )
            lock.require()
            self._told(f"{name}: roll back")
            failed: HelmRefused | ClusterAway | None = None
            try:
                self._helm.rollback(name, back.number, back_to(back.number, reason))
            except (HelmRefused, ClusterAway) as error:  # the ConfigMap is written before any hook
                failed = error  # Helm leaves such a rollback pending: the next one recovers
            now = self._record(name, left=left, reason=reason)
            if isinstance(failed, HelmRefused):
                raise Refused(f"{now.message}, but it is not well: {self._why(name, failed)}")
            if failed is not None:
                raise failed
            return now

    def record(self, name: str, *, reason: str) -> PromotionOutcome:
        """Write into git's files what the cluster serves; what was tried instead is withdrawn."""
        return self._record(name, left=None, reason=reason_of(reason))

    def retire(self, name: str) -> PromotionOutcome:
        """Stop serving an adapter, wait until nothing answers by it, and take its file away."""
        with self._lock(name):
            self._helm.uninstall(name)
            # of a first release that was killed Helm knows nothing any more
            self._api.delete(CONFIG_MAPS, f"{RELEASE_PREFIX}{name}")
            place, end = listing(self._api), self._clock() + GONE
            while (seen := retirement_readiness(place, name)).state != "absent":
                if self._clock() >= end:
                    raise Unavailable(f"{name}: its release is gone, but {seen.told}")
                self._pause(LOOK)
            self._declarations.remove(name)
        text = (
            f"{name} is retired; the platform's CronJob takes alias {self.environment} away. "
            f"Commit the removal of {self._declarations.path(name)}"
        )
        return PromotionOutcome(name, text, None, None)

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
        label = f"{declared.adapter}@{declared.version}"
        record = self._way_out("record", declared)
        expected = [declared.pin, *([declared.replaces] if declared.replaces else [])]
        if live is None:
            if declared.replaces is None:
                return
            serves = "nothing"
        elif live.pin in expected:
            return
        else:
            last = history[-1] if history else None
            since = f" (Helm revision {last.number}: {last.reason})" if last else ""
            serves = f"version {live.version}{since}"
        file = self._declarations.path(declared.adapter)
        replaced = f"version {declared.replaces.version}" if declared.replaces else "nothing"
        raise Refused(
            f"{label}: {file} declares it in place of {replaced}, but {self.environment} serves "
            f"{serves}; propose the version again, or let {record} write down what serves"
        )

    def _require_not_left(self, declared: Declaration) -> None:
        """Refused where somebody went back from what git declares, and git has not heard of it.

        Looked at before anything is recovered, which would forget a rollback that was cut off.
        """
        history = self._helm.history(declared.adapter)
        if not any(one.went_back and one.number > declared.revision for one in history):
            return  # as it is mostly, and Helm need not be asked what each revision serves
        back = unrecorded(self._known(declared.adapter), declared)
        if back is None:
            return
        label = f"{declared.adapter}@{declared.version}: git declares it, but a rollback from it"
        which = f"(Helm revision {back.number}: {back.reason})"
        if back.pending:
            finish = self._way_out("rollback", declared)
            raise Refused(f"{label} was begun and cut off {which}; {finish} finishes that")
        record = self._way_out("record", declared)
        raise Refused(f"{label} was not written down {which}; {record} does so")

    def _way_out(self, verb: str, declared: Declaration) -> str:
        return f"`atelier {verb} {declared.adapter} --environment {self.environment}`"

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
        self,
        declared: Declaration,
        values: dict[str, Any],
        history: tuple[Revision, ...],
        lock: HeldLease,
    ) -> None:
        name = declared.adapter
        try:
            self._helm.upgrade(name, self._chart, values, declared.reason)
        except HelmRefused as error:
            why = self._why(name, error)
            self._told(f"{name}@{declared.version}: {why}")
            lock.require()
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

    def _confirm(self, declared: Declaration) -> PromotionOutcome:
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
        return PromotionOutcome(declared.adapter, text, live, history[-1].number, alias)

    def _alias(self, name: str) -> int | None:
        named = self._registry().aliased(name, self.environment)
        return named.version if named else None

    def _record(self, name: str, *, left: Release | None, reason: str) -> PromotionOutcome:
        """`left` is what served until now, where that is known."""
        live, known = self.live(name), self._known(name)
        said = self._declarations.find(name)
        if live is None:
            self._declarations.remove(name)
            return PromotionOutcome(
                name, f"{name}: nothing is released; git declares nothing", None, None
            )
        tried = [pin for one in known for pin in one.release.served]
        seen = known[-1].number if known else 0
        self._declarations.put(recorded(live, said, left, tried, seen, reason))
        file = self._declarations.path(name)
        text = f"{_label(live)} serves in {self.environment}; commit {file}"
        return PromotionOutcome(name, text, live, seen or None)

    def _known(self, name: str) -> list[RevisionRelease]:
        """The release's history, with what each revision serves."""
        history = self._helm.history(name)
        return [
            RevisionRelease(one, release_of(self._helm.values(name, one.number))) for one in history
        ]

    def _readable(self, name: str) -> Release | None:
        """What the cluster is told to serve; None where there is nothing, or nothing to read."""
        return listing(self._api).releases.read().releases.get(name)

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

    def _recover(self, name: str) -> Revision | None:
        """The revision that was cut off, where there was one."""
        gone = self._helm.recover(name)
        if gone:
            self._told(f"{name}: revision {gone.number} was cut off while {gone.status}")
        return gone

    def _lock(self, name: str, *, wait: float = LOCK_WAIT) -> AbstractContextManager[HeldLease]:
        lock = LeaseLock(
            self._api, f"atelier-rollout-{name}", self._holder, seconds=LOCK_SECONDS, renewed=True
        )
        return lock.held(wait=wait)

    def _step(self, step: str, declared: Declaration) -> None:
        self._told(f"{declared.adapter}@{declared.version}: {step}")


def recorded(
    live: Release,
    said: Declaration | None,
    left: Release | None,
    tried: Iterable[Pin],
    revision: int,
    reason: str,
) -> Declaration:
    """What serves as a declaration.

    What was `left` is withdrawn, and what git `said` instead if the cluster `tried` it: a version
    that only waited for its promotion is nobody's fault.
    """
    serves = {pin.digest for pin in live.served}
    known = {pin.digest for pin in tried}
    before = [
        *(left.served if left else ()),
        *(pin for pin in (said.served if said else ()) if pin.digest in known),
    ]
    gone = {pin.digest: pin for pin in before if pin.digest not in serves}
    withdrawn = [
        Withdrawn(version=pin.version, digest=pin.digest, reason=reason) for pin in gone.values()
    ]
    kept = said.withdrawn if said else ()
    withdrawn += [one for one in kept if one.digest not in serves and one.digest not in gone]
    replaced = left.pin if left else said.pin if said else None
    return Declaration(
        adapter=live.adapter,
        version=live.version,
        digest=live.digest,
        base=live.base,
        vae=live.vae,
        canary=live.canary,
        replaces=replaced if replaced != live.pin else (said.replaces if said else None),
        withdrawn=tuple(withdrawn),
        revision=revision,
        reason=reason,
    )


def _is_deployed(history: tuple[Revision, ...]) -> bool:
    return bool(history) and history[-1].status == "deployed"


def _label(live: Release) -> str:
    canary = live.canary
    share = f" and @{canary.version} to {canary.percent} % of its calls" if canary else ""
    return f"{live.adapter}@{live.version} ({live.digest}){share}"
