"""A load generator: clients that call without pause, and a record of every call.

The demo, the benchmarks and the tests use it for traffic that goes on while something changes.
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

PATIENCE = 600.0  # seconds
LOOK = 0.02  # seconds between two looks at what has come


@dataclass(frozen=True)
class Answered(Generic[Answer]):
    """A call that returned. Times are in seconds since the load generator was made."""

    number: int  # of the call, from 0
    asked: float
    came: float
    answer: Answer

    @property
    def seconds(self) -> float:
        """How long the call took."""
        return self.came - self.asked


@dataclass(frozen=True)
class Failed:
    """A call that raised; times as in `Answered`."""

    number: int
    asked: float
    came: float
    error: Exception

    def __str__(self) -> str:
        return f"{self.asked:.2f} s: {type(self.error).__name__}: {self.error}"


class LoadGenerator(Generic[Answer]):
    """Calls `ask` with 0, 1, 2 … from several threads until `running` ends; repeats no call.

    Each client pauses for `pause` seconds between two calls. `answers` and `failures` grow in the
    order in which calls end.
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
        """Seconds since the load generator was made."""
        return time.monotonic() - self._began

    @contextmanager
    def running(self, clients: int) -> Iterator[None]:
        """Call in the background; the calls under way are finished at the end."""
        threads = [
            threading.Thread(target=self._client, name=f"client-{number}", daemon=True)
            for number in range(clients)
        ]
        for one in threads:
            one.start()
        try:
            yield
        finally:
            self._ended.set()
            for one in threads:
                one.join()

    def wait_for(
        self,
        count: int,
        *,
        where: Callable[[Answer], bool] = lambda answer: True,
        seconds: float = PATIENCE,
    ) -> None:
        """Return when `count` more answers came `where` that holds, or at the first failure.

        Raises Unavailable after `seconds`.
        """

        def matching() -> int:
            return sum(where(one.answer) for one in tuple(self.answers))

        before, deadline = matching(), time.monotonic() + seconds
        while not self.failures and matching() < before + count:
            if time.monotonic() > deadline:
                raise Unavailable(f"{count} more answers did not come within {seconds:g} s")
            time.sleep(LOOK)

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
