"""Runs a command to its end."""

import os
import shlex
import subprocess
from collections.abc import Sequence

from tests.cluster.local.trouble import ClusterTroubleError

# A user who becomes root may lack these.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


def environment(**more: str) -> dict[str, str]:
    """This process's, with programs of the system's administrator on the path."""
    return {**os.environ, "PATH": PATH, **more}


def run(
    command: Sequence[str], check: bool = True, stdin: str | None = None, seconds: float = 300
) -> str:
    """What `command` says. ClusterTroubleError with its last words when it fails or takes longer.

    Without `check`, a failure is for the caller to see in what was said.
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
        raise ClusterTroubleError(f"{shown}: no such program") from None
    if check and done.returncode:
        raise ClusterTroubleError(f"{shown}: {done.stderr.strip()[-1500:]}")
    return done.stdout
