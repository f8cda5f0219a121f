"""Signals between `TritonServer` and the model's process, as files in a folder.

Triton does not inform a Python model that the server is about to stop, and does not report whether
the model's process is alive.
"""

import time
from pathlib import Path

from atelier.files import write_atomic


class ControlFolder:
    """Three files: `worker` with the model's process id, `drain` (request), `drained` (done)."""

    def __init__(self, path: Path):
        """Use the folder `path`, the same in both processes. The first write creates it."""
        self.path = path

    def clear(self) -> None:
        """Remove the files of an earlier server."""
        for name in ("worker", "drain", "drained"):
            (self.path / name).unlink(missing_ok=True)

    def announce(self, pid: int) -> None:
        """Write the process id of the model."""
        write_atomic(self.path / "worker", str(pid))

    def worker(self) -> int | None:
        """Return the process id of the model, or None before `announce`."""
        try:
            return int((self.path / "worker").read_text())
        except (OSError, ValueError):
            return None

    def drain(self, *, timeout: float) -> bool:
        """Request a drain. Return True when it is done, or False after `timeout` seconds."""
        write_atomic(self.path / "drain", "")
        deadline = time.monotonic() + timeout
        while not (self.path / "drained").exists():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def drain_requested(self) -> bool:
        """Return whether the model must refuse new requests."""
        return (self.path / "drain").exists()

    def report_drained(self) -> None:
        """Record that the model has sent every response."""
        write_atomic(self.path / "drained", "")
