"""Run `atelier serve` as a separate process for the demo."""

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

from atelier.contract.replica import ReplicaFolder
from atelier.data.recipe import BaseSpec
from atelier.errors import Refused, Unavailable
from atelier.home import Home
from services.triton.process import alive, spawn, stop, tail

START_SECONDS: Final = 1200.0  # more than the start limits of `atelier serve` itself
STOP_SECONDS: Final = 60.0
REPLICA: Final = "local"  # the default name of `atelier serve`


@dataclass(frozen=True)
class Served:
    """The addresses of the running processes, and the process ids that they had at the start."""

    gateway: str
    triton: str
    home: Home
    pids: dict[str, int]  # by service; `model` is the process of the engine inside Triton

    def require_unrestarted(self) -> str:
        """Return a sentence for the report if no process has restarted, else raise Refused."""
        pids = self.pids | _engine(self.home)
        ended = [name for name, pid in self.pids.items() if pids[name] != pid or not alive(pid)]
        if ended:
            raise Refused(f"{', '.join(ended)} restarted; see the logs in {self.home.logs}")
        return "no process restarted: " + ", ".join(f"{name} {pid}" for name, pid in pids.items())


@contextmanager
def served(home: Home, base: BaseSpec, port: int = 0) -> Iterator[Served]:
    """Start `atelier serve` on this home, and stop it at the end of the block.

    Raises Unavailable, with the last lines of the log, if it does not become ready.
    """
    log = home.logs / "serve.log"
    argv = [sys.executable, "-m", "commands", "serve", "--port", str(port), "--base", base.model]
    for option, value in (("--revision", base.revision), ("--vae", base.vae)):
        argv += [option, value] if value else []
    process = spawn(argv, log=log, env={**os.environ, "ATELIER_HOME": str(home.root)})
    try:
        yield _addresses(process, home, log)
    finally:
        stop(process, grace=STOP_SECONDS)


def _engine(home: Home) -> dict[str, int]:
    """Return the process id of the engine, under the key `model`, from the replica's report."""
    report = ReplicaFolder(home.replicas).list().get(REPLICA)
    return {"model": report.pid} if report and report.pid else {}


def _addresses(process: "subprocess.Popen[bytes]", home: Home, log: Path) -> Served:
    """Wait for the note that `atelier serve` writes when it is ready."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Unavailable(f"`atelier serve` ended; the end of {log}:\n{tail(log)}")
        if home.serve_note.exists():
            note = json.loads(home.serve_note.read_bytes())
            pids = note["pids"] | _engine(home)
            return Served(note["gateway"], note["triton_http"], home, pids)
        time.sleep(0.1)
    raise Unavailable(f"not ready after {START_SECONDS:.0f} s; the end of {log}:\n{tail(log)}")
