"""What an exception means to whoever started a process: a message and an exit code."""

import errno
import sys
from collections.abc import Callable
from dataclasses import dataclass

from atelier.addresses import redact
from atelier.errors import AtelierError, ExitCode
from atelier.logs import redact_tracebacks, traceback_of


@dataclass(frozen=True)
class Failure:
    """An exception as a message for people and an exit code for scripts."""

    kind: str
    message: str
    exit_code: ExitCode


def failure_of(error: BaseException) -> Failure:
    """Translate an exception. One that this program does not expect is INTERNAL: a bug."""
    kind = type(error).__name__
    if isinstance(error, AtelierError):
        return Failure(kind, str(error), error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return Failure("Interrupted", "stopped by Ctrl-C", ExitCode.INTERRUPTED)
    if isinstance(error, OSError) and error.filename is not None:
        return Failure(kind, f"{error.filename}: {error.strerror}", _os_exit_code(error))
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        message = "the disk is full: free some space and run again"
        return Failure(kind, message, ExitCode.UNAVAILABLE)
    return Failure(kind, f"internal error: {kind}: {redact(str(error))}", ExitCode.INTERNAL)


def run_process(work: Callable[[], int | None]) -> int:
    """Do the work of a Job's or a service's process; its exit code.

    `work` may return an exit code; None is DONE. An error is one line on stderr. A bug also prints
    its traceback, because nobody can run a pod again with --debug.
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
    """A full disk passes when someone makes room; a missing file does not."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return ExitCode.UNAVAILABLE if full else ExitCode.BAD_INPUT
