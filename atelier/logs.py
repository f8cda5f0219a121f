"""Setup of a process's log, with credentials redacted."""

import logging
import sys
import threading
import traceback
from types import TracebackType
from typing import TextIO

from atelier.addresses import redact


class RedactingFormatter(logging.Formatter):
    """Formats a record with its traceback, and redacts the result."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the redacted text of a record."""
        return redact(super().format(record))


def log_to(stream: TextIO, *, format: str, level: int | str = logging.INFO) -> None:
    """Write every log line to the stream, unless the log is already set up."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(RedactingFormatter(format))
    logging.basicConfig(level=level, handlers=[handler])
    redact_tracebacks()


def redact_tracebacks() -> None:
    """Redact the tracebacks of uncaught exceptions, including those of threads."""
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def traceback_of(error: BaseException) -> str:
    """Return the redacted traceback of an exception and its causes."""
    return redact("".join(traceback.format_exception(error)))


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        print(traceback_of(error.with_traceback(trace)), end="", file=sys.stderr)


def _uncaught_in_thread(hook: threading.ExceptHookArgs) -> None:
    if hook.exc_value is not None and not isinstance(hook.exc_value, SystemExit):
        name = hook.thread.name if hook.thread else "a thread"
        text = f"Exception in thread {name}:\n{traceback_of(hook.exc_value)}"
        print(text, end="", file=sys.stderr)
