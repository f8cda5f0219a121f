"""The pending requests of Triton, and the error codes and texts of the responses.

The engine thread completes a future, and a separate thread sends the response, so that the next
step does not wait until Triton has copied an image. If a client cancels a request, it is also
cancelled in the engine.
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

RETRY_AFTER = 1.0  # seconds, for errors without a `retry_after`

R = TypeVar("R")


class Sender(Protocol):
    """Triton's response sender of one request. It must not be used after the response."""

    def is_cancelled(self) -> bool:
        """Return whether the client cancelled the call or disconnected (gRPC only)."""
        ...


class Answers(Generic[R]):
    """Send every response exactly once, with `send(sender, result or error)`."""

    def __init__(self, send: Callable[[Sender, R | BaseException], None]):
        """Start the thread that calls `send`. Errors of `send` are only logged."""
        self._send = send
        self._waiting: dict[int, tuple[Sender, Future[R]]] = {}
        self._unanswered = 0
        self._changed = threading.Condition()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="answers")
        self._keys = itertools.count()

    def __len__(self) -> int:
        """Return the number of pending requests."""
        return self._unanswered

    def refuse(self, sender: Sender, error: BaseException) -> None:
        """Send an error immediately."""
        self._send(sender, error)

    def expect(self, sender: Sender, future: Future[R]) -> None:
        """Send the outcome of `future` when it is done."""
        with self._changed:
            key = next(self._keys)
            self._waiting[key] = (sender, future)
            self._unanswered += 1
        future.add_done_callback(lambda _: self._thread.submit(self._answer, key))

    def cancel_abandoned(self) -> int:
        """Cancel the requests that their clients cancelled, and return their number."""
        with self._changed:  # a sender must not be used after its response
            abandoned = [
                future for sender, future in self._waiting.values() if sender.is_cancelled()
            ]
        return sum(future.cancel() for future in abandoned)

    def wait_until_empty(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds. Return whether every request has its response."""
        with self._changed:
            return self._changed.wait_for(lambda: self._unanswered == 0, timeout)

    def close(self) -> None:
        """End the sending thread after it has sent the responses that are due."""
        self._thread.shutdown(wait=True)

    def _answer(self, key: int) -> None:
        with self._changed:
            sender, future = self._waiting.pop(key)
        try:
            outcome: R | BaseException = _outcome(future)
            self._send(sender, outcome)
        except Exception:  # an error of Triton; the client cannot receive it
            logger.exception("triton: a response could not be sent")
        finally:
            with self._changed:
                self._unanswered -= 1
                self._changed.notify_all()


def error_code(error: BaseException) -> str:
    """Return the name of Triton's error code. A client uses it to decide whether to retry."""
    if isinstance(error, UnknownAdapter):
        return "NOT_FOUND"
    if isinstance(error, (CancelledError, DeadlineExceeded)):
        return "CANCELLED"
    if isinstance(
        error, (Unavailable, Cancelled)
    ):  # checked before BadInput, because AdapterDamaged is both
        return "UNAVAILABLE"
    if isinstance(error, BadInput):
        return "INVALID_ARG"
    return "INTERNAL"


def error_text(error: BaseException) -> str:
    """Return one line for the client. Log an unexpected error with its traceback.

    The gateway parses the seconds in `(retry after … s)`.
    """
    if isinstance(error, CancelledError):
        return "the request was cancelled"
    if isinstance(error, (Unavailable, Cancelled)) and error_code(error) == "UNAVAILABLE":
        seconds = getattr(error, "retry_after", None) or RETRY_AFTER
        return f"{error} (retry after {seconds:.1f} s)"
    if not isinstance(error, AtelierError):
        logger.error("triton: a request failed", exc_info=error)
        return f"internal error: {type(error).__name__}: {redact(str(error))}"
    return str(error)


def _outcome(future: "Future[R]") -> R | BaseException:
    try:
        return future.result(timeout=0)
    except (Exception, CancelledError) as error:
        return error
