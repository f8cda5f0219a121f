"""A lock among processes of a cluster: a Lease that its holder makes, and takes away again.

One left behind by a holder that was killed is taken over once nobody has touched it for as long as
it says, by the clock of whoever waits.

The Kubernetes client has a leader election on Leases (kubernetes.leaderelection), made for
processes that lead until they die. It cannot be used for the time of one command. Measured with
kubernetes 37.0.2 and a lease of 4 s:

- Nothing ends it: when the work has returned, `run()` renews the Lease for ever (10 renewals in
  10 s) and never deletes it. Waiting for the lock has no deadline.
- A leader that was stopped, while another took the Lease over, worked and deleted it, takes it
  again and leads on. Its callback for a lost Lease is not called.
- One refused connection while renewing ends `run()` with urllib3's error. The callback is not
  called, and the work goes on in its thread without the lock.
- A follower waits for its own lease duration, whatever duration the Lease states.
- A mistake in its configuration is SystemExit.
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

LEASE_SECONDS = 120  # longer than anyone works under a lock that is not renewed
LOOK = 0.5  # seconds between two attempts


@dataclass
class HeldLease:
    """The Lease as its holder wrote it last; nobody takes it over before `until`, by `clock`."""

    lease: Object
    until: float
    clock: Callable[[], float]
    lost: bool = False

    @property
    def version(self) -> str:
        """Of the Lease."""
        return str(self.lease["metadata"]["resourceVersion"])

    def require(self) -> None:
        """Unavailable where another has taken it over, or may have: not renewed for too long.

        This process was stopped, or the API server was away.
        """
        name = self.lease["metadata"]["name"]
        if self.lost:
            raise Unavailable(f"lease {name} was taken over by another; run this again")
        if self.clock() >= self.until:
            raise Unavailable(f"lease {name} could not be renewed in time; run this again")


class LeaseLock:
    """The lock of that name; whoever outlasts `seconds` without a change of it takes it over.

    One that is `renewed` is touched three times as often, for work that takes longer.
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
        """Hold it; Unavailable naming the holder where it cannot be had within `wait` seconds.

        One left behind is had only by who waits longer than its `seconds`.
        """
        mine = self._take(self._clock() + wait)
        ended = threading.Event()
        if self._renewed:
            worker = threading.Thread(target=self._renew, args=(mine, ended), daemon=True)
            worker.start()
        try:
            yield mine
        finally:
            ended.set()
            if self._renewed:
                worker.join()
            with suppress(AtelierError):  # it runs out by itself
                self._api.delete(LEASES, self._name, version=mine.version)

    def _renew(self, mine: HeldLease, ended: threading.Event) -> None:
        while not ended.wait(self._seconds / 3):
            try:
                until = self._clock() + self._seconds
                mine.lease = self._api.replace(LEASES, self._body(mine.lease["metadata"]))
                mine.until = until
            except (NotFound, Conflict):  # this process was stopped for longer than `seconds`
                mine.lost = True
                return
            except AtelierError as error:
                logger.warning("lease %s is not renewed: %s", self._name, error)

    def _take(self, deadline: float) -> HeldLease:
        seen, since = "", self._clock()
        while True:
            until = self._clock() + self._seconds  # from before the request, so rather too early
            try:
                made = self._api.create(LEASES, self._body({"name": self._name}))
                return HeldLease(made, until, self._clock)
            except Conflict:
                pass
            try:
                other = self._api.get(LEASES, self._name)
                if seen != other["metadata"]["resourceVersion"]:
                    seen, since = other["metadata"]["resourceVersion"], self._clock()
                if self._clock() - since >= self._seconds:
                    taken = self._api.replace(LEASES, self._body(other["metadata"]))
                    return HeldLease(taken, until, self._clock)
            except (NotFound, Conflict):
                continue  # let go of, or taken over by another
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
