"""One way to set up the log of a process; nothing is written with credentials in it."""

import logging
import sys
import threading
import traceback
from types import TracebackType
from typing import TextIO

from atelier.addresses import redact


class RedactingFormatter(logging.Formatter):
    """Formats a record, its traceback included, and redacts the result."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def log_to(stream: TextIO, *, format: str, level: int | str = logging.INFO) -> None:
    """Write every log line to the stream; a log that is set up already stays as it is."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(RedactingFormatter(format))
    logging.basicConfig(level=level, handlers=[handler])
    redact_tracebacks()


def redact_tracebacks() -> None:
    """Print the tracebacks of uncaught exceptions redacted, those of threads too."""
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def traceback_of(error: BaseException) -> str:
    """The traceback of an exception and of its causes, redacted."""
    return redact("".join(traceback.format_exception(error)))


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        print(traceback_of(error.with_traceback(trace)), end="", file=sys.stderr)


def _uncaught_in_thread(given: threading.ExceptHookArgs) -> None:
    if given.exc_value is not None and not isinstance(given.exc_value, SystemExit):
        name = given.thread.name if given.thread else "a thread"
        text = f"Exception in thread {name}:\n{traceback_of(given.exc_value)}"
        print(text, end="", file=sys.stderr)
