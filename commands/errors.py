"""Print the error of a failed command: text on stderr and, with --json, an object on stdout."""

import json
import sys

from atelier.errors import ExitCode
from atelier.failures import failure_of
from atelier.logs import traceback_of


def report(error: BaseException, *, as_json: bool = False, debug: bool = False) -> ExitCode:
    """Print an exception and return the exit code of the command."""
    failure = failure_of(error)
    if debug:
        print(traceback_of(error), end="", file=sys.stderr)
    bug = failure.exit_code is ExitCode.INTERNAL
    hint = " (run again with --debug for the traceback)" if bug and not debug else ""
    message = failure.message + hint
    print(f"atelier: {message}", file=sys.stderr)
    if as_json:
        body = {"kind": failure.kind, "message": message, "exit_code": failure.exit_code}
        print(json.dumps({"error": body}))
    return failure.exit_code
