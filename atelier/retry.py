"""Retries of calls to an unavailable service."""

from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_fixed

from atelier.errors import Unavailable

Answer = TypeVar("Answer")

PAUSE = 5.0  # seconds between two calls


def patiently(
    work: Callable[[], Answer], *, seconds: float, on_retry: Callable[[str], None] | None = None
) -> Answer:
    """Return the result of `work`, repeated for up to `seconds` while it raises Unavailable.

    Then raises the last error. `on_retry` receives the text of each error before a pause.
    """

    def is_over(state: RetryCallState) -> bool:
        return (state.seconds_since_start or 0.0) + state.upcoming_sleep > seconds

    def log(state: RetryCallState) -> None:
        if on_retry and state.outcome:
            on_retry(f"{state.outcome.exception()} (again in {PAUSE:g} s)")

    retrying = Retrying(
        retry=retry_if_exception_type(Unavailable),
        wait=wait_fixed(PAUSE),
        stop=is_over,
        before_sleep=log,
        reraise=True,
    )
    return retrying(work)
