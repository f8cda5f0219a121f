"""`atelier serve`: Triton, agent and gateway of one replica on one machine, kept running."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from atelier.base import resolve_base
from atelier.errors import BadInput, Unavailable
from atelier.files import write_atomic
from atelier.home import Home
from atelier.replica import ReplicaFolder
from commands.verb import Answer
from services.triton.process import free_port, roll, spawn, tail

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before a restart, doubled by each further one
SETTLED = 30.0  # seconds after which an earlier end is forgiven
PERIOD = 0.1
BASE = "models/miniature"


@dataclass(frozen=True)
class Service:
    """A process to keep: how to start it, and how to tell that it does its work."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    ready: Callable[[], bool]
    start_seconds: float = 60.0
    grace: float = 10.0  # seconds between SIGTERM and SIGKILL


@dataclass
class _Kept:
    """A service and its process now."""

    service: Service
    process: "subprocess.Popen[bytes] | None" = None
    began: float = 0.0
    ends: int = 0  # in a row, without having settled in between
    again: float | None = None  # when to start it anew


@dataclass
class Supervisor:
    """Starts services in order, restarts those that end, and stops all in reverse order."""

    services: Sequence[Service]
    say: Callable[[str], None]
    told: threading.Event = field(default_factory=threading.Event)
    _hurry: bool = False

    def __post_init__(self) -> None:
        self._kept = [_Kept(service) for service in self.services]

    def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Until told to stop. Raises Unavailable with the log's end if one cannot start at all."""
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
        """Tell it to stop, from a signal or another thread; a second time: at once."""
        self._hurry = self.told.is_set()
        self.told.set()

    def pid(self, name: str) -> int | None:
        """The process of a service, None while it has none."""
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


def serve(
    base: Annotated[str, typer.Option(help="Base model: a folder or a hub id.")] = BASE,
    port: Annotated[int, typer.Option(help="The gateway's port; 0 for a free one.")] = 8080,
    host: Annotated[str, typer.Option(help="The gateway's address.")] = "127.0.0.1",
    triton_http_port: Annotated[int, typer.Option(help="0 for a free one.")] = 0,
    triton_grpc_port: Annotated[int, typer.Option(help="0 for a free one.")] = 0,
    triton_metrics_port: Annotated[int, typer.Option(help="0 for a free one.")] = 0,
    replica: Annotated[str, typer.Option(help="This replica's name.")] = "local",
    gateway: Annotated[bool, typer.Option(help="Also run the gateway.")] = True,
) -> Answer:
    """Serve one base and every released adapter, until Ctrl-C or SIGTERM.

    The engine's own settings are ATELIER_SLOTS, ATELIER_MAX_BATCH, ATELIER_MAX_RANK,
    ATELIER_DEVICE, ATELIER_PRECISION.
    """
    home = Home.find()
    addresses = Addresses(
        gateway=_own_port(host, port, "--port"),
        http=_own_port("127.0.0.1", triton_http_port, "--triton-http-port"),
        grpc=_own_port("127.0.0.1", triton_grpc_port, "--triton-grpc-port"),
        metrics=_own_port("127.0.0.1", triton_metrics_port, "--triton-metrics-port"),
        host=host,
    )
    folder = Path(resolve_base(base)).absolute()
    services = plan_services(home, folder, addresses, replica=replica, gateway=gateway)
    supervisor = Supervisor(services, say=lambda text: print(text, file=sys.stderr, flush=True))
    note = home.root / "serve.json"
    before = {
        number: signal.signal(number, supervisor.stop) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        supervisor.run(on_ready=lambda: _announce(supervisor, note, addresses, gateway=gateway))
    finally:
        note.unlink(missing_ok=True)
        for number, handler in before.items():
            signal.signal(number, handler)
    return Answer(text="stopped", data={"stopped": True})


@dataclass(frozen=True)
class Addresses:
    """The ports of one replica; Triton's are on loopback only."""

    gateway: int
    http: int
    grpc: int
    metrics: int
    host: str = "127.0.0.1"

    def to_json(self, *, gateway: bool) -> dict[str, str]:
        """Where a client on this machine finds what."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        found = {
            "triton_http": f"http://127.0.0.1:{self.http}",
            "triton_grpc": f"127.0.0.1:{self.grpc}",
            "triton_metrics": f"http://127.0.0.1:{self.metrics}/metrics",
        }
        return {**({"gateway": f"http://{host}:{self.gateway}"} if gateway else {}), **found}


def plan_services(
    home: Home, base: Path, addresses: Addresses, *, replica: str, gateway: bool = True
) -> list[Service]:
    """The processes of one replica, in the order in which they start."""
    shared = {
        **os.environ,
        "ATELIER_HOME": str(home.root),
        "ATELIER_REPLICA": replica,
        "MLFLOW_TRACKING_URI": home.tracking_uri,
        "PYTHONPATH": os.pathsep.join(
            [
                str(Path(__file__).resolve().parents[1]),
                *filter(None, [os.environ.get("PYTHONPATH")]),
            ]
        ),
        "PYTHONUNBUFFERED": "1",
    }
    triton = {
        "ATELIER_BASE": str(base),
        "ATELIER_TRITON_HTTP_PORT": str(addresses.http),
        "ATELIER_TRITON_GRPC_PORT": str(addresses.grpc),
        "ATELIER_TRITON_METRICS_PORT": str(addresses.metrics),
    }
    front = {
        "ATELIER_TRITON_URL": f"grpc://127.0.0.1:{addresses.grpc}",
        "ATELIER_GATEWAY_HOST": addresses.host,
        "ATELIER_GATEWAY_PORT": str(addresses.gateway),
    }
    reports = ReplicaFolder(home.replicas)
    urls = addresses.to_json(gateway=True)
    drain = float(os.environ.get("ATELIER_DRAIN_SECONDS") or 25)

    def reported() -> bool:
        report = reports.list().get(replica)
        return report is not None and report.live()

    services = [
        Service(
            name="triton",
            argv=_module("services.triton"),
            env={**shared, **triton},
            log=home.logs / "triton.log",
            ready=lambda: _answers(f"{urls['triton_http']}/v2/health/ready"),
            start_seconds=600.0,
            grace=drain + 10.0,
        ),
        Service(
            name="agent",
            argv=_module("services.agent"),
            env=shared,
            log=home.logs / "agent.log",
            ready=reported,
        ),
    ]
    if gateway:
        services.append(
            Service(
                name="gateway",
                argv=_module("services.gateway"),
                env={**shared, **front},
                log=home.logs / "gateway.log",
                ready=lambda: _answers(f"{urls['gateway']}/readyz"),
                grace=40.0,
            )
        )
    return services


def _announce(supervisor: Supervisor, note: Path, addresses: Addresses, *, gateway: bool) -> None:
    found = addresses.to_json(gateway=gateway)
    pids = {one.name: supervisor.pid(one.name) for one in supervisor.services}
    write_atomic(note, json.dumps({**found, "pid": os.getpid(), "pids": pids}, indent=2))
    for name, url in found.items():
        supervisor.say(f"{name.replace('_', ' ')}: {url}")


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", name]


def _own_port(host: str, port: int, option: str) -> int:
    """The port, or a free one for 0; BadInput where somebody listens on it already."""
    if port == 0:
        return free_port(host)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BadInput(
                f"{option} {port}: {host}:{port} cannot be used ({error.strerror}); "
                "choose another, or 0 for a free one"
            ) from error
    return port


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _obituary(service: Service, process: "subprocess.Popen[bytes]") -> str:
    code = process.returncode
    how = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
    return f"{service.name} ended ({how}); the end of {service.log}:\n{tail(service.log)}"
