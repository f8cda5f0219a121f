"""Fetches packages beside the agent's loop, so that a slow registry never delays a report."""

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
AHEAD = 16  # under way and waiting for a thread: whoever is released meanwhile waits for no more
FIRST_WAIT = 1.0  # seconds after a failure, doubled by each further one
LONGEST_WAIT = 60.0


@dataclass
class _Failure:
    """Why the last attempt failed, and when to try again (monotonic seconds)."""

    reason: str
    passes: bool  # by itself, as a registry's absence does; a package that is bad does not
    count: int
    again: float


class PackageFetcher:
    """At most one attempt at a time for each digest; failures wait longer and longer.

    Its threads are daemons: a registry that never answers does not keep a process from ending, as
    the threads of an executor would. What they leave half done is swept away at the next start.
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
        self.failures = 0  # attempts in all that brought nothing

    def want(self, pins: Sequence[Named]) -> None:
        """Start those that are not under way and not waiting after a failure; forget all else."""
        if self._failed:
            wanted = {one.digest for one in pins}
            self._failed = {d: one for d, one in self._failed.items() if d in wanted}
        for one in pins:
            if len(self._running) >= AHEAD:
                return
            failure = self._failed.get(one.digest)
            waiting = failure is not None and self._clock() < failure.again
            if one.digest not in self._running and not waiting:
                future: Future[None] = Future()
                self._running[one.digest] = future
                self._jobs.put((one, future))

    def collect(self) -> None:
        """Take note of what has ended since."""
        for digest, future in list(self._running.items()):
            if future.done():
                del self._running[digest]
                self._note(digest, future.exception())

    @property
    def problems(self) -> dict[str, str]:
        """By digest, why it is not there yet."""
        return {digest: failure.reason for digest, failure in self._failed.items()}

    @property
    def passing(self) -> frozenset[str]:
        """The digests of those whose trouble may pass by itself."""
        return frozenset(digest for digest, failure in self._failed.items() if failure.passes)

    def close(self) -> None:
        """Start nothing more, and wait for no slow registry."""
        for future in self._running.values():
            future.cancel()
        for _ in range(THREADS):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            one, future = job
            if future.set_running_or_notify_cancel():
                try:
                    self._fetch(one)
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(None)

    def _note(self, digest: str, error: BaseException | None) -> None:
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
            passes=isinstance(error, (Unavailable, OSError)),
            count=count,
            again=self._clock() + wait,
        )
