"""One environment's adapters on a cluster: git's declarations, Helm's releases, the registry.

Promotion, rollback, record and retirement share this class. If a process is killed, the next one
can call every method again.
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
LOCK_SECONDS: Final = 20  # seconds until the lock of a killed command expires
LOCK_WAIT: Final = 120.0  # seconds
HOOK_LINES: Final = 5  # last lines of a failed hook's log that an error quotes


@dataclass(frozen=True)
class PromotionOutcome:
    """The result for one adapter."""

    adapter: str
    message: str
    release: Release | None
    revision: int | None  # Helm's
    alias: int | None = None  # the version that the environment's alias names; None: unknown


@dataclass(frozen=True)
class RevisionRelease:
    """One revision of an adapter's Helm release, and the release in its values."""

    revision: Revision
    release: Release

    @property
    def number(self) -> int:
        """The number of the revision in Helm's history."""
        return self.revision.number


class AdapterReleases:
    """The adapters of one environment on a cluster.

    Methods raise Refused if a check forbids the change, and Unavailable if a service does not
    respond.
    """

    def __init__(
        self,
        declarations: Declarations,
        api: Api,
        helm: Helm,
        registry: Callable[[], Registry],  # raises Unavailable
        *,
        holder: str,  # name of this process in its locks
        report: Callable[[str], None] = logger.info,  # called with each step, for people
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ):
        self.declarations = declarations
        self.api, self.helm, self.registry = api, helm, registry
        self.report, self.clock, self.pause = report, clock, pause
        self._holder = holder

    @property
    def environment(self) -> str:
        """The name of the environment and of its alias."""
        return self.declarations.environment

    def live(self, name: str) -> Release | None:
        """Return the release in the cluster, or None; raise Refused if it cannot be read."""
        try:
            return listing(self.api).releases.find(name)
        except ReleaseError as error:
            raise Refused(f"{error}; roll back, or retire the adapter") from error

    def readable(self, name: str) -> Release | None:
        """Return the release in the cluster, None if there is none or it cannot be read."""
        try:
            return listing(self.api).releases.find(name)
        except ReleaseError:
            return None

    def history(self, name: str) -> list[RevisionRelease]:
        """Return Helm's history of an adapter, oldest first, with the release of each revision."""
        return [
            RevisionRelease(revision, release_of(self.helm.values(name, revision.number)))
            for revision in self.helm.history(name)
        ]

    def alias(self, name: str) -> int | None:
        """Return the version that the environment's alias names, or None."""
        version = self.registry().aliased(name, self.environment)
        return version.version if version else None

    def recover(self, name: str) -> Revision | None:
        """Remove and return the revision that a killed Helm left pending; None if there is none."""
        pending = self.helm.recover(name)
        if pending:
            self.report(f"{name}: revision {pending.number} was interrupted ({pending.status})")
        return pending

    def locked(self, name: str, *, wait: float = LOCK_WAIT) -> AbstractContextManager[HeldLease]:
        """Lock one adapter against other commands; wait up to `wait` seconds for the lock."""
        lock = LeaseLock(
            self.api, f"atelier-rollout-{name}", self._holder, seconds=LOCK_SECONDS, renewed=True
        )
        return lock.held(wait=wait)

    def command(self, verb: str, declared: Declaration) -> str:
        """Return the command line that an error message recommends for this adapter."""
        return f"`atelier {verb} {declared.adapter} --environment {self.environment}`"

    def reason(self, name: str, error: HelmRefused) -> str:
        """Return Helm's error with the last lines of the hook's log, which contain the cause."""
        with_job = [("labelSelector", f"batch.kubernetes.io/job-name=hook-{name}")]
        try:
            pods, _ = self.api.list(PODS, with_job)
            newest = max(pods, key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)
            if newest is None:
                return str(error)
            lines = list(self.api.log(PODS, newest["metadata"]["name"], "hook"))
        except AtelierError:
            return str(error)
        messages = [line.partition(" ")[2] for line in lines[-HOOK_LINES:]]
        return f"{error}; the hook's log: {' / '.join(messages)}" if messages else str(error)


def label_of(release: Release) -> str:
    """Describe a release for people: adapter, version, digest and the canary's share."""
    canary = release.canary
    share = f" and @{canary.version} to {canary.percent} % of its requests" if canary else ""
    return f"{release.adapter}@{release.version} ({release.digest}){share}"
