"""`atelier serve` as a process of its own, for as long as the demo needs it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from atelier.errors import Unavailable
from atelier.home import Home
from services.triton.process import spawn, stop, tail

START_SECONDS: Final = 1200.0  # `atelier serve` has limits of its own, and ends when it meets one
STOP_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Served:
    """Where what runs answers, and its processes."""

    gateway: str
    triton: str
    pids: dict[str, int]


@contextmanager
def served(home: Home, base: str, port: int = 0) -> Iterator[Served]:
    """Start Triton, agent and gateway on this home; stop them however the block ends."""
    log = home.logs / "serve.log"
    argv = [sys.executable, "-m", "commands", "serve", "--base", base, "--port", str(port)]
    process = spawn(argv, log=log, env={**os.environ, "ATELIER_HOME": str(home.root)})
    try:
        yield _addresses(process, home.root / "serve.json", log)
    finally:
        stop(process, grace=STOP_SECONDS)


def _addresses(process: "subprocess.Popen[bytes]", note: Path, log: Path) -> Served:
    """What `atelier serve` writes down once everything is ready."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Unavailable(f"`atelier serve` ended; the end of {log}:\n{tail(log)}")
        if note.exists():
            found = json.loads(note.read_bytes())
            return Served(found["gateway"], found["triton_http"], found["pids"])
        time.sleep(0.1)
    raise Unavailable(f"not ready after {START_SECONDS:.0f} s; the end of {log}:\n{tail(log)}")
