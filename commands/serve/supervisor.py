"""Supervises the processes of a replica: starts them in order, restarts, stops in reverse."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from atelier.errors import Unavailable
from services.triton.process import roll, spawn, tail

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before a restart, doubled by each further one
SETTLED = 30.0  # seconds of running after which earlier failures are forgotten
PERIOD = 0.1


@dataclass(frozen=True)
class Service:
    """A supervised process: how to start it, and how to check that it is ready."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    ready: Callable[[], bool]
    start_seconds: float = 60.0
    grace: float = 10.0  # seconds between SIGTERM and SIGKILL


@dataclass
class _Kept:
    """A service and its current process."""

    service: Service
    process: "subprocess.Popen[bytes] | None" = None
    began: float = 0.0
    ends: int = 0  # failures in a row
    again: float | None = None  # when to restart it


@dataclass
class Supervisor:
    """Starts services in order, restarts those that exit, and stops all in reverse order."""

    services: Sequence[Service]
    say: Callable[[str], None]
    told: threading.Event = field(default_factory=threading.Event)
    _hurry: bool = False

    def __post_init__(self) -> None:
        self._kept = [_Kept(service) for service in self.services]

    def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Run until `stop`. Unavailable, with the end of the log, if a service cannot start."""
        try:
            for kept in self._kept:
                self._start(kept)
                self._wait_ready(kept)
                if self.told.is_set():
                    return
                self.say(f"{kept.service.name} is ready")
            on_ready()
            while not self.told.wait(PERIOD):
                for kept in self._kept:
                    self._look_after(kept)
        finally:
            self._stop_all()

    def stop(self, *_: object) -> None:
        """Request a stop, from a signal or another thread. A second call kills at once."""
        self._hurry = self.told.is_set()
        self.told.set()

    def pid(self, name: str) -> int | None:
        """The process id of a service, or None while it has no process."""
        found = next(kept for kept in self._kept if kept.service.name == name)
        return found.process.pid if found.process else None

    def _start(self, kept: _Kept) -> None:
        service = kept.service
        if kept.ends == 0:
            roll(service.log)
        kept.process = spawn(service.argv, env=service.env, log=service.log)
        kept.began, kept.again = time.monotonic(), None

    def _wait_ready(self, kept: _Kept) -> None:
        service, process = kept.service, kept.process
        deadline = time.monotonic() + service.start_seconds
        while not (self.told.is_set() or service.ready()):
            if process is not None and process.poll() is not None:
                raise Unavailable(f"{_obituary(service, process)} before it was ready")
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{service.name} is not ready after {service.start_seconds:.0f} s; the end of "
                    f"{service.log}:\n{tail(service.log)}"
                )
            time.sleep(PERIOD)

    def _look_after(self, kept: _Kept) -> None:
        process, now = kept.process, time.monotonic()
        if process is None:
            if kept.again is not None and now >= kept.again:
                self._start(kept)
        elif process.poll() is not None:
            kept.ends = 1 if now - kept.began > SETTLED else kept.ends + 1
            wait = min(FIRST_WAIT * 2 ** (kept.ends - 1), LONGEST_WAIT)
            kept.process, kept.again = None, now + wait
            self.say(f"{_obituary(kept.service, process)}\nstarting it again in {wait:g} s")

    def _stop_all(self) -> None:
        for kept in reversed(self._kept):
            process, kept.process = kept.process, None
            if process is None:
                continue
            process.terminate()
            deadline = time.monotonic() + kept.service.grace
            while process.poll() is None and not self._hurry and time.monotonic() < deadline:
                time.sleep(0.02)
            if process.poll() is None:
                self.say(f"{kept.service.name} did not end in time and is killed")
                process.kill()
            process.wait()


def _obituary(service: Service, process: "subprocess.Popen[bytes]") -> str:
    code = process.returncode
    how = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
    return f"{service.name} ended ({how}); the end of {service.log}:\n{tail(service.log)}"
