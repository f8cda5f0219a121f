"""Translation of exceptions into a message and an exit code of the process."""

import errno
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from atelier.addresses import redact
from atelier.errors import AtelierError, ExitCode
from atelier.logs import redact_tracebacks, traceback_of
from atelier.printable import printable


@dataclass(frozen=True)
class Failure:
    """An exception as a message for users and an exit code for scripts."""

    kind: str
    message: str
    exit_code: ExitCode


def failure_of(error: BaseException) -> Failure:
    """Translate an exception. An unexpected exception is a bug and gives the exit code INTERNAL."""
    failure = _failure_of(error)
    return replace(failure, message=printable(failure.message))


def _failure_of(error: BaseException) -> Failure:
    kind = type(error).__name__
    if isinstance(error, AtelierError):
        return Failure(kind, str(error), error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return Failure("Interrupted", "stopped by Ctrl-C", ExitCode.INTERRUPTED)
    if isinstance(error, OSError) and error.filename is not None:
        return Failure(kind, f"{error.filename}: {error.strerror}", _os_exit_code(error))
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        message = "the disk is full; free some space and run this again"
        return Failure(kind, message, ExitCode.UNAVAILABLE)
    return Failure(kind, f"internal error: {kind}: {redact(str(error))}", ExitCode.INTERNAL)


def run_process(work: Callable[[], int | None]) -> int:
    """Run the work of a Job or a service; return the exit code of the process.

    `work` may return an exit code; None is DONE. An error prints one line on stderr. A bug also
    prints its traceback, because a pod cannot be run again with --debug.
    """
    redact_tracebacks()
    try:
        return work() or ExitCode.DONE
    except (Exception, KeyboardInterrupt) as error:
        failure = failure_of(error)
        if failure.exit_code is ExitCode.INTERNAL:
            print(traceback_of(error), end="", file=sys.stderr)
        print(f"atelier: {failure.message}", file=sys.stderr, flush=True)
        return failure.exit_code


def _os_exit_code(error: OSError) -> ExitCode:
    """Return the exit code of an OSError: a full disk is a temporary problem, others are not."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return ExitCode.UNAVAILABLE if full else ExitCode.BAD_INPUT
