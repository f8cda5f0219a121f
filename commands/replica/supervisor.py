"""Supervise the processes of a replica: start them in order, restart them, and stop them."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from atelier.errors import Unavailable
from services.triton.process import roll, spawn, tail

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before a restart; doubled after each failure
STABLE = 30.0  # run time in seconds that resets the number of failures
PERIOD = 0.1  # seconds between checks


@dataclass(frozen=True)
class Service:
    """A supervised process: its command, environment, log and readiness check."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    ready: Callable[[], bool]
    start_seconds: float = 60.0
    grace: float = 10.0  # seconds between SIGTERM and SIGKILL


@dataclass
class _Child:
    """A service and its current process."""

    service: Service
    process: "subprocess.Popen[bytes] | None" = None
    started_at: float = 0.0
    failures: int = 0  # consecutive failures
    restart_at: float | None = None


@dataclass
class Supervisor:
    """Start services in order, restart those that exit, and stop all in reverse order."""

    services: Sequence[Service]
    report: Callable[[str], None]
    _stopping: threading.Event = field(default_factory=threading.Event)
    _kill_now: bool = False

    def __post_init__(self) -> None:
        self._children = [_Child(service) for service in self.services]

    def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Run until `stop`. Call `on_ready` when all services are ready.

        Raises Unavailable, with the last lines of the log, if a service cannot start.
        """
        try:
            for child in self._children:
                self._start(child)
                self._wait_ready(child)
                if self._stopping.is_set():
                    return
                self.report(f"{child.service.name} is ready")
            on_ready()
            while not self._stopping.wait(PERIOD):
                for child in self._children:
                    self._watch(child)
        finally:
            self._stop_all()

    def stop(self, *_: object) -> None:
        """Request a stop, from a signal handler or another thread.

        A second call kills the services.
        """
        self._kill_now = self._stopping.is_set()
        self._stopping.set()

    def pid(self, name: str) -> int | None:
        """Return the process id of a service, or None while it has no process."""
        child = next(child for child in self._children if child.service.name == name)
        return child.process.pid if child.process else None

    def _start(self, child: _Child) -> None:
        service = child.service
        if child.failures == 0:
            roll(service.log)
        child.process = spawn(service.argv, env=service.env, log=service.log)
        child.started_at, child.restart_at = time.monotonic(), None

    def _wait_ready(self, child: _Child) -> None:
        service, process = child.service, child.process
        deadline = time.monotonic() + service.start_seconds
        while not (self._stopping.is_set() or service.ready()):
            if process is not None and process.poll() is not None:
                raise Unavailable(f"{_exit_report(service, process)} before it was ready")
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{service.name} is not ready after {service.start_seconds:.0f} s; the end of "
                    f"{service.log}:\n{tail(service.log)}"
                )
            time.sleep(PERIOD)

    def _watch(self, child: _Child) -> None:
        process, now = child.process, time.monotonic()
        if process is None:
            if child.restart_at is not None and now >= child.restart_at:
                self._start(child)
        elif process.poll() is not None:
            child.failures = 1 if now - child.started_at > STABLE else child.failures + 1
            wait = min(FIRST_WAIT * 2 ** (child.failures - 1), LONGEST_WAIT)
            child.process, child.restart_at = None, now + wait
            self.report(f"{_exit_report(child.service, process)}\nrestart in {wait:g} s")

    def _stop_all(self) -> None:
        for child in reversed(self._children):
            process, child.process = child.process, None
            if process is None:
                continue
            process.terminate()
            deadline = time.monotonic() + child.service.grace
            while process.poll() is None and not self._kill_now and time.monotonic() < deadline:
                time.sleep(0.02)
            if process.poll() is None:
                self.report(
                    f"{child.service.name} did not end within {child.service.grace:g} s "
                    "and is killed"
                )
                process.kill()
            process.wait()


def _exit_report(service: Service, process: "subprocess.Popen[bytes]") -> str:
    code = process.returncode
    how = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
    return f"{service.name} ended ({how}); the end of {service.log}:\n{tail(service.log)}"
