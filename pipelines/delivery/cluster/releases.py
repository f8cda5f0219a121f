"""One environment's adapters on a cluster: git's declarations, Helm's releases, the registry.

Promotion, rollback, record and retirement share this state. Every method may be called again after
the process before it was killed.
"""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from atelier.data.declaration import Declaration, Declarations
from atelier.data.release import Release
from atelier.errors import AtelierError, Refused, ReleaseError
from atelier.platform import Api, LeaseLock, listing
from atelier.platform.api import PODS
from atelier.platform.helm import Helm, HelmRefused, Revision
from atelier.platform.lease_lock import HeldLease
from atelier.stores.registry import Registry
from pipelines.delivery.cluster.helm_values import release_of

logger = logging.getLogger(__name__)

PLATFORM: Final = "atelier"  # the platform's Helm release
LOCK_SECONDS: Final = 20  # after which the lock of a command that was killed is free
LOCK_WAIT: Final = 120.0  # seconds
HOOK_LINES: Final = 5  # last lines of a failed hook's log that an error quotes


@dataclass(frozen=True)
class PromotionOutcome:
    """The result for one adapter."""

    adapter: str
    message: str
    release: Release | None
    revision: int | None  # Helm's
    alias: int | None = None  # the version that the environment's alias names; None: not known


@dataclass(frozen=True)
class RevisionRelease:
    """One revision of an adapter's Helm release, and the release that it made."""

    revision: Revision
    release: Release

    @property
    def number(self) -> int:
        """Helm's number of the revision."""
        return self.revision.number


class AdapterReleases:
    """The adapters of one environment on a cluster.

    Methods raise Refused where something forbids it and Unavailable where a service is away.
    """

    def __init__(
        self,
        declarations: Declarations,
        api: Api,
        helm: Helm,
        registry: Callable[[], Registry],  # Unavailable where it is away
        *,
        holder: str,  # of locks
        report: Callable[[str], None] = logger.info,  # gets the next step, for people
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ):
        self.declarations = declarations
        self.api, self.helm, self.registry = api, helm, registry
        self.report, self.clock, self.pause = report, clock, pause
        self._holder = holder

    @property
    def environment(self) -> str:
        """The environment's name, which is the alias's too."""
        return self.declarations.environment

    def live(self, name: str) -> Release | None:
        """The release in the cluster; Refused where it cannot be read."""
        try:
            return listing(self.api).releases.find(name)
        except ReleaseError as error:
            raise Refused(f"{error}; roll back, or retire the adapter") from error

    def readable(self, name: str) -> Release | None:
        """The release in the cluster; None where there is none, or none that can be read."""
        try:
            return listing(self.api).releases.find(name)
        except ReleaseError:
            return None

    def history(self, name: str) -> list[RevisionRelease]:
        """Helm's history of an adapter, oldest first, with the release of each revision."""
        return [
            RevisionRelease(one, release_of(self.helm.values(name, one.number)))
            for one in self.helm.history(name)
        ]

    def alias(self, name: str) -> int | None:
        """The version that the environment's alias names."""
        named = self.registry().aliased(name, self.environment)
        return named.version if named else None

    def recover(self, name: str) -> Revision | None:
        """Remove the revision that a killed Helm left pending; None where there is none."""
        gone = self.helm.recover(name)
        if gone:
            self.report(f"{name}: revision {gone.number} was cut off while {gone.status}")
        return gone

    def locked(self, name: str, *, wait: float = LOCK_WAIT) -> AbstractContextManager[HeldLease]:
        """Keep other commands away from one adapter."""
        lock = LeaseLock(
            self.api, f"atelier-rollout-{name}", self._holder, seconds=LOCK_SECONDS, renewed=True
        )
        return lock.held(wait=wait)

    def command(self, verb: str, declared: Declaration) -> str:
        """The command line of a verb for this adapter, as errors recommend it."""
        return f"`atelier {verb} {declared.adapter} --environment {self.environment}`"

    def reason(self, name: str, error: HelmRefused) -> str:
        """Helm's error with the last lines of the hook's log, which say more."""
        with_job = [("labelSelector", f"batch.kubernetes.io/job-name=hook-{name}")]
        try:
            pods, _ = self.api.list(PODS, with_job)
            newest = max(pods, key=lambda one: one["metadata"]["creationTimestamp"], default=None)
            if newest is None:
                return str(error)
            lines = list(self.api.log(PODS, newest["metadata"]["name"], "hook"))
        except AtelierError:
            return str(error)
        messages = [line.partition(" ")[2] for line in lines[-HOOK_LINES:]]
        return f"{error}; the hook said: {' / '.join(messages)}" if messages else str(error)


def label_of(release: Release) -> str:
    """A release for people: adapter, version, digest and the canary's share."""
    canary = release.canary
    share = f" and @{canary.version} to {canary.percent} % of its calls" if canary else ""
    return f"{release.adapter}@{release.version} ({release.digest}){share}"
