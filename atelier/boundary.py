"""The one error boundary of every command: known errors become a line and an exit code."""

import errno
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass

from atelier.addresses import redact
from atelier.errors import AtelierError
from atelier.logs import redact_tracebacks, traceback_of

BAD_INPUT = 2
SERVICE_AWAY = 3
INTERNAL = 70  # EX_SOFTWARE of sysexits.h: a bug of ours, never the caller's doing
KEYBOARD = 130  # 128 + SIGINT, as shells report it


@dataclass(frozen=True)
class Failure:
    """What went wrong, in words for a person and a number for a script."""

    kind: str
    message: str
    exit_code: int


def explain(error: BaseException) -> Failure:
    """Translate an exception. Unknown ones are ours to mend: they name --debug and exit 70."""
    kind = type(error).__name__
    if isinstance(error, AtelierError):
        return Failure(kind, str(error), error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return Failure("Interrupted", "stopped by Ctrl-C", KEYBOARD)
    if isinstance(error, OSError) and error.filename is not None:
        return Failure(kind, f"{error.filename}: {error.strerror}", _os_exit_code(error))
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return Failure(kind, "the disk is full: free some space and run again", SERVICE_AWAY)
    message = (
        f"internal error: {kind}: {redact(str(error))} (run again with --debug for the traceback)"
    )
    return Failure(kind, message, INTERNAL)


def _os_exit_code(error: OSError) -> int:
    """A full disk passes when someone makes room; a missing file does not."""
    return SERVICE_AWAY if error.errno in (errno.ENOSPC, errno.EDQUOT) else BAD_INPUT


def report(error: BaseException, *, as_json: bool, debug: bool) -> int:
    """Print the failure (stderr for people, one object on stdout for --json); the exit code."""
    failure = explain(error)
    if debug:
        print(traceback_of(error), end="", file=sys.stderr)
    print(f"atelier: {failure.message}", file=sys.stderr)
    if as_json:
        body = {"kind": failure.kind, "message": failure.message, "exit_code": failure.exit_code}
        print(json.dumps({"error": body}))
    return failure.exit_code


def answered(work: Callable[[], None], *, debug: bool = False) -> int:
    """Do the work; the exit code of a process that does nothing else."""
    redact_tracebacks()
    try:
        work()
    except (Exception, KeyboardInterrupt) as error:
        return report(error, as_json=False, debug=debug)
    return 0
