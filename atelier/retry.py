"""Waiting for a service that is away, for a while."""

import time
from collections.abc import Callable
from typing import TypeVar

from atelier.errors import Unavailable

Answer = TypeVar("Answer")

PAUSE = 5.0  # seconds


def patiently(
    work: Callable[[], Answer], *, seconds: float, told: Callable[[str], None] | None = None
) -> Answer:
    """What `work` answers, asked again for so long while a service is away; then Unavailable."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return work()
        except Unavailable as error:
            if time.monotonic() + PAUSE > deadline:
                raise
            if told:
                told(f"{error} (again in {PAUSE:g} s)")
            time.sleep(PAUSE)
