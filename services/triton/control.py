"""The few words that the server's keeper and the model's process say to each other, as files.

Triton has no way to tell a Python model that the server is about to stop, nor whether the model's
process is still there.
"""

import time
from pathlib import Path

from atelier.files import write_atomic


class ControlFolder:
    """`worker` holds the model process's id; `drain` asks it to finish; `drained` says it has."""

    def __init__(self, path: Path):
        """`path` is the same folder for both; nothing is made before somebody speaks."""
        self.path = path

    def clear(self) -> None:
        """Forget what an earlier server said."""
        for name in ("worker", "drain", "drained"):
            (self.path / name).unlink(missing_ok=True)

    def announce(self, pid: int) -> None:
        """The model's process is `pid`."""
        write_atomic(self.path / "worker", str(pid))

    def worker(self) -> int | None:
        """The model's process, once it has announced itself."""
        try:
            return int((self.path / "worker").read_text())
        except (OSError, ValueError):
            return None

    def drain(self, *, timeout: float) -> bool:
        """Ask the model to finish; True once it has, False after `timeout` seconds."""
        write_atomic(self.path / "drain", "")
        deadline = time.monotonic() + timeout
        while not (self.path / "drained").exists():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def asked_to_drain(self) -> bool:
        """Whether the model shall take nothing new."""
        return (self.path / "drain").exists()

    def say_drained(self) -> None:
        """The model has answered everything."""
        write_atomic(self.path / "drained", "")
