"""Fetches packages beside the agent's loop, so that a slow registry never delays a report."""

import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from atelier.errors import AtelierError, Unavailable
from services.agent.plan import Named

logger = logging.getLogger(__name__)

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
    """At most one attempt at a time for each digest; failures wait longer and longer."""

    def __init__(
        self, fetch: Callable[[Named], None], *, clock: Callable[[], float] = time.monotonic
    ):
        self._fetch = fetch
        self._clock = clock
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="fetch")
        self._running: dict[str, Future[None]] = {}
        self._failed: dict[str, _Failure] = {}
        self.failures = 0  # attempts in all that brought nothing

    def want(self, pins: Iterable[Named]) -> None:
        """Start what is not under way and not waiting after a failure; forget all else."""
        pins = list(pins)
        wanted = {one.digest for one in pins}
        self._failed = {d: one for d, one in self._failed.items() if d in wanted}
        for one in pins:
            failure = self._failed.get(one.digest)
            waiting = failure is not None and self._clock() < failure.again
            if one.digest not in self._running and not waiting:
                self._running[one.digest] = self._threads.submit(self._fetch, one)

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
        self._threads.shutdown(wait=False, cancel_futures=True)

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
            reason=str(error) or type(error).__name__,
            passes=isinstance(error, (Unavailable, OSError)),
            count=count,
            again=self._clock() + wait,
        )
