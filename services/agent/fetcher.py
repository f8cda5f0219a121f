"""Fetch packages in the background, so that a slow registry does not delay a report."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from atelier.addresses import redact
from atelier.errors import AtelierError, Unavailable
from services.agent.plan import Named

logger = logging.getLogger(__name__)

THREADS = 2
MAX_QUEUED = 16  # running and waiting fetches, so that a new release waits for few others
FIRST_WAIT = 1.0  # seconds after the first failure; doubled with each further failure
LONGEST_WAIT = 60.0


@dataclass
class _Failure:
    """The reason for the last failed attempt, and the time of the next (monotonic seconds)."""

    reason: str
    temporary: bool  # true for an unavailable registry, false for an invalid package
    count: int
    again: float


class PackageFetcher:
    """Fetch each digest at most once at a time. The wait doubles with each failure.

    Unlike the threads of an executor, these threads are daemons, so that a registry that never
    responds cannot prevent the process from ending. The next start removes incomplete downloads.
    """

    def __init__(
        self, fetch: Callable[[Named], None], *, clock: Callable[[], float] = time.monotonic
    ):
        self._fetch = fetch
        self._clock = clock
        self._jobs: queue.SimpleQueue[tuple[Named, Future[None]] | None] = queue.SimpleQueue()
        for number in range(THREADS):
            threading.Thread(target=self._work, name=f"fetch-{number}", daemon=True).start()
        self._running: dict[str, Future[None]] = {}
        self._failed: dict[str, _Failure] = {}
        self.failures = 0  # number of failed attempts since the start

    def want(self, versions: Sequence[Named]) -> None:
        """Start the fetches of `versions` that are neither running nor waiting for a retry.

        Failures of all other versions are forgotten.
        """
        if self._failed:
            wanted = {version.digest for version in versions}
            self._failed = {d: failure for d, failure in self._failed.items() if d in wanted}
        for version in versions:
            if len(self._running) >= MAX_QUEUED:
                return
            failure = self._failed.get(version.digest)
            waiting = failure is not None and self._clock() < failure.again
            if version.digest not in self._running and not waiting:
                future: Future[None] = Future()
                self._running[version.digest] = future
                self._jobs.put((version, future))

    def collect(self) -> None:
        """Process the fetches that have ended since the last call."""
        for digest, future in list(self._running.items()):
            if future.done():
                del self._running[digest]
                self._record(digest, future.exception())

    @property
    def problems(self) -> dict[str, str]:
        """The reasons for the failed fetches, by digest."""
        return {digest: failure.reason for digest, failure in self._failed.items()}

    @property
    def temporary(self) -> frozenset[str]:
        """The digests whose fetch failed for a temporary reason."""
        return frozenset(digest for digest, failure in self._failed.items() if failure.temporary)

    def close(self) -> None:
        """Start no more fetches. Do not wait for the running fetches."""
        for future in self._running.values():
            future.cancel()
        for _ in range(THREADS):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            version, future = job
            if future.set_running_or_notify_cancel():
                try:
                    self._fetch(version)
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(None)

    def _record(self, digest: str, error: BaseException | None) -> None:
        if error is None:
            self._failed.pop(digest, None)
            return
        self.failures += 1
        if not isinstance(error, AtelierError):
            logger.error("fetching %s failed", digest, exc_info=error)
        count = self._failed[digest].count + 1 if digest in self._failed else 1
        wait = min(FIRST_WAIT * 2 ** (count - 1), LONGEST_WAIT)
        self._failed[digest] = _Failure(
            reason=redact(str(error)) or type(error).__name__,
            temporary=isinstance(error, (Unavailable, OSError)),
            count=count,
            again=self._clock() + wait,
        )
