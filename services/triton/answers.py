"""The requests that Triton has handed over and still waits for.

An engine thread finishes a future; another thread sends the answer, so that the next step never
waits for Triton to copy a picture. A request whose client has gone is cancelled in the engine.
"""

import itertools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

from atelier.addresses import redact
from atelier.errors import AtelierError, BadInput, Unavailable
from services.engine import Cancelled, DeadlineExceeded, UnknownAdapter

logger = logging.getLogger(__name__)

RETRY_AFTER = 1.0  # seconds, where the engine does not say

R = TypeVar("R")


class Sender(Protocol):
    """What Triton gives for each request to answer it by; unusable after the answer."""

    def is_cancelled(self) -> bool:
        """Whether the client has gone or changed its mind (gRPC only)."""
        ...


class Answers(Generic[R]):
    """Sends every answer exactly once, by `send(sender, result or the error)`."""

    def __init__(self, send: Callable[[Sender, R | BaseException], None]):
        """What `expect` brings is sent in a thread of its own, whose errors are only logged."""
        self._send = send
        self._waiting: dict[int, tuple[Sender, Future[R]]] = {}
        self._unanswered = 0
        self._changed = threading.Condition()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="answers")
        self._keys = itertools.count()

    def __len__(self) -> int:
        return self._unanswered

    def refuse(self, sender: Sender, error: BaseException) -> None:
        """Answer at once with an error."""
        self._send(sender, error)

    def expect(self, sender: Sender, future: Future[R]) -> None:
        """Answer when the future is done."""
        with self._changed:
            key = next(self._keys)
            self._waiting[key] = (sender, future)
            self._unanswered += 1
        future.add_done_callback(lambda _: self._thread.submit(self._answer, key))

    def cancel_abandoned(self) -> int:
        """Cancel what nobody waits for any more; how many those were."""
        with self._changed:  # an answered sender must not be asked
            gone = [future for sender, future in self._waiting.values() if sender.is_cancelled()]
        return sum(future.cancel() for future in gone)

    def wait_until_empty(self, timeout: float) -> bool:
        """Whether everything was answered within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._unanswered == 0, timeout)

    def close(self) -> None:
        """End the sending thread once it has sent what is due."""
        self._thread.shutdown(wait=True)

    def _answer(self, key: int) -> None:
        with self._changed:
            sender, future = self._waiting.pop(key)
        try:
            outcome: R | BaseException = _outcome(future)
            self._send(sender, outcome)
        except Exception:  # Triton's own, of no use to anybody but the log
            logger.exception("an answer could not be sent")
        finally:
            with self._changed:
                self._unanswered -= 1
                self._changed.notify_all()


def error_code(error: BaseException) -> str:
    """The name of Triton's error code for an error, so that a client knows if it may retry."""
    if isinstance(error, UnknownAdapter):
        return "NOT_FOUND"
    if isinstance(error, (CancelledError, DeadlineExceeded)):
        return "CANCELLED"
    if isinstance(error, (Unavailable, Cancelled)):  # first: a damaged adapter is BadInput as well
        return "UNAVAILABLE"
    if isinstance(error, BadInput):
        return "INVALID_ARG"
    return "INTERNAL"


def error_text(error: BaseException) -> str:
    """One line for the client; a fault of ours is logged whole and told by its kind."""
    if isinstance(error, CancelledError):
        return "the request was cancelled"
    if isinstance(error, (Unavailable, Cancelled)) and error_code(error) == "UNAVAILABLE":
        seconds = getattr(error, "retry_after", None) or RETRY_AFTER
        return f"{error} (retry after {seconds:.1f} s)"
    if not isinstance(error, AtelierError):
        logger.error("a request failed", exc_info=error)
        return f"internal error: {type(error).__name__}: {redact(str(error))}"
    return str(error)


def _outcome(future: "Future[R]") -> R | BaseException:
    try:
        return future.result(timeout=0)
    except (Exception, CancelledError) as error:
        return error
