"""A lock between processes of a cluster: a Lease that its holder creates, and deletes at the end.

A waiting process takes over the Lease of a killed holder: it waits until the Lease has not changed
for the duration that the Lease states, measured by its own clock.

The Kubernetes client's leader election on Leases (kubernetes.leaderelection) is made for processes
that lead until they end. It is unsuitable for a single command. Measured with kubernetes 37.0.2 and
a lease of 4 s:

- It does not end: after the work has returned, `run()` continues to renew the Lease (10 renewals in
  10 s) and never deletes it. Waiting for the lock has no deadline.
- A leader that is suspended, while another takes the Lease over, works and deletes it, takes it
  again and continues. Its callback for a lost Lease is not called.
- One refused connection during renewal ends `run()` with urllib3's error. The callback is not
  called, and the work continues in its thread without the lock.
- A follower waits for its own lease duration, not for the one that the Lease states.
- An error in its configuration raises SystemExit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from atelier.errors import AtelierError, Unavailable
from atelier.platform.api import LEASES, Api, Conflict, NotFound, Object

logger = logging.getLogger(__name__)

LEASE_SECONDS = 120  # longer than any work under a lock that is not renewed
LOOK = 0.5  # seconds between two attempts


@dataclass
class HeldLease:
    """The Lease as last written by its holder; safe from takeover until `until`, by `clock`."""

    lease: Object
    until: float
    clock: Callable[[], float]
    lost: bool = False

    @property
    def version(self) -> str:
        """The resource version of the Lease."""
        return str(self.lease["metadata"]["resourceVersion"])

    def require(self) -> None:
        """Raise Unavailable if another process has or may have taken the Lease over.

        This happens if this process was suspended or the API server was unavailable.
        """
        name = self.lease["metadata"]["name"]
        if self.lost:
            raise Unavailable(f"lease {name} was taken over by another process; run this again")
        if self.clock() >= self.until:
            raise Unavailable(f"lease {name} could not be renewed in time; run this again")


class LeaseLock:
    """The lock `name`. A waiting process takes the lock over after `seconds` without a change.

    With `renewed`, the holder renews the lock three times in `seconds`, for longer work.
    """

    def __init__(
        self,
        api: Api,
        name: str,
        holder: str,
        *,
        seconds: int = LEASE_SECONDS,
        renewed: bool = False,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ):
        self._api, self._name, self._holder, self._seconds = api, name, holder, seconds
        self._renewed = renewed
        self._clock, self._pause = clock, pause

    @contextmanager
    def held(self, *, wait: float) -> Iterator[HeldLease]:
        """Hold the lock during the block.

        Raises Unavailable, with the holder, if another process holds it for `wait` seconds. Taking
        over the lock of a killed holder takes longer than its `seconds`.
        """
        lease = self._take(self._clock() + wait)
        ended = threading.Event()
        if self._renewed:
            worker = threading.Thread(target=self._renew, args=(lease, ended), daemon=True)
            worker.start()
        try:
            yield lease
        finally:
            ended.set()
            if self._renewed:
                worker.join()
            with suppress(AtelierError):  # the Lease expires
                self._api.delete(LEASES, self._name, version=lease.version)

    def _renew(self, held: HeldLease, ended: threading.Event) -> None:
        while not ended.wait(self._seconds / 3):
            try:
                until = self._clock() + self._seconds
                held.lease = self._api.replace(LEASES, self._body(held.lease["metadata"]))
                held.until = until
            except (NotFound, Conflict):  # this process was suspended longer than `seconds`
                held.lost = True
                return
            except AtelierError as error:
                logger.warning("lease %s: is not renewed: %s", self._name, error)

    def _take(self, deadline: float) -> HeldLease:
        version, since = "", self._clock()
        while True:
            until = self._clock() + self._seconds  # before the request, so never too late
            try:
                created = self._api.create(LEASES, self._body({"name": self._name}))
                return HeldLease(created, until, self._clock)
            except Conflict:
                pass
            try:
                other = self._api.get(LEASES, self._name)
                if version != other["metadata"]["resourceVersion"]:
                    version, since = other["metadata"]["resourceVersion"], self._clock()
                if self._clock() - since >= self._seconds:
                    taken = self._api.replace(LEASES, self._body(other["metadata"]))
                    return HeldLease(taken, until, self._clock)
            except (NotFound, Conflict):
                continue  # released, or taken over by another process
            if self._clock() > deadline:
                holder = other["spec"].get("holderIdentity")
                raise Unavailable(f"lease {self._name} is held by {holder}; try again later")
            self._pause(LOOK)

    def _body(self, metadata: Object) -> Object:
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": self._holder,
                "leaseDurationSeconds": self._seconds,
                "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            },
        }
