"""A load generator: client threads that call a function repeatedly, and a record of every call.

The demo, the benchmarks and the tests use it to send traffic during a change, such as a swap.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from atelier.errors import Unavailable

Answer = TypeVar("Answer")

PATIENCE = 600.0  # seconds that `wait_for` waits by default
POLL = 0.02  # seconds between two checks of the results


@dataclass(frozen=True)
class Answered(Generic[Answer]):
    """A call that returned. Times are in seconds since the creation of the load generator."""

    number: int  # number of the call, from 0
    asked: float  # time of the call
    came: float  # time of the return
    answer: Answer

    @property
    def seconds(self) -> float:
        """The duration of the call."""
        return self.came - self.asked


@dataclass(frozen=True)
class Failed:
    """A call that raised an exception. The other fields are those of `Answered`."""

    number: int
    asked: float
    came: float
    error: Exception

    def __str__(self) -> str:
        return f"{self.asked:.2f} s: {type(self.error).__name__}: {self.error}"


class LoadGenerator(Generic[Answer]):
    """Call `ask` with 0, 1, 2 … from several threads until `running` ends. No call is retried.

    Each thread pauses for `pause` seconds between two calls. `answers` and `failures` list the
    calls in the order in which they ended.
    """

    def __init__(self, ask: Callable[[int], Answer], *, pause: float = 0.0) -> None:
        self.answers: list[Answered[Answer]] = []
        self.failures: list[Failed] = []
        self._ask = ask
        self._pause = pause
        self._numbers = itertools.count()
        self._ended = threading.Event()
        self._began = time.monotonic()

    @property
    def now(self) -> float:
        """Seconds since the creation of the load generator."""
        return time.monotonic() - self._began

    @contextmanager
    def running(self, clients: int) -> Iterator[None]:
        """Call from `clients` threads inside the block. At its end, wait for the running calls."""
        threads = [
            threading.Thread(target=self._client, name=f"client-{number}", daemon=True)
            for number in range(clients)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()

    def wait_for(
        self,
        count: int,
        *,
        where: Callable[[Answer], bool] = lambda answer: True,
        seconds: float = PATIENCE,
    ) -> None:
        """Wait for `count` more results that satisfy `where`, or for the first failure.

        Raises Unavailable if neither arrives within `seconds` seconds.
        """

        def matching() -> int:
            return sum(where(call.answer) for call in tuple(self.answers))

        before, deadline = matching(), time.monotonic() + seconds
        while not self.failures and matching() < before + count:
            if time.monotonic() > deadline:
                raise Unavailable(f"fewer than {count} more results arrived within {seconds:g} s")
            time.sleep(POLL)

    def _client(self) -> None:
        while not self._ended.is_set():
            number, asked = next(self._numbers), self.now
            try:
                answer = self._ask(number)
            except Exception as error:
                self.failures.append(Failed(number, asked, self.now, error))
            else:
                self.answers.append(Answered(number, asked, self.now, answer))
            self._ended.wait(self._pause)
