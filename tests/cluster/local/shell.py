"""Run a command and return its output."""

import os
import shlex
import subprocess
from collections.abc import Sequence

from tests.cluster.local.trouble import ClusterTroubleError

# Some ways to become root leave these out of PATH.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment with the folders of system programs in PATH."""
    return {**os.environ, "PATH": PATH, **more}


def run(
    command: Sequence[str], check: bool = True, stdin: str | None = None, seconds: float = 300
) -> str:
    """Run a command and return its stdout.

    Raises ClusterTroubleError if it takes longer than `seconds` or, with `check`, if it fails. The
    error contains the end of stderr.
    """
    shown = shlex.join(command)[:200]
    try:
        done = subprocess.run(
            command,
            check=False,
            env=environment(),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise ClusterTroubleError(f"{shown}: took over {seconds:.0f} s") from None
    except FileNotFoundError:
        raise ClusterTroubleError(f"{shown}: the program is not installed") from None
    if check and done.returncode:
        raise ClusterTroubleError(f"{shown}: {done.stderr.strip()[-1500:]}")
    return done.stdout
