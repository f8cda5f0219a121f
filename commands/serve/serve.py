"""`atelier serve`: run Triton, agent and gateway of one replica on this machine."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.addresses import host_port, listen, reachable
from atelier.contract.replica import ReplicaFolder
from atelier.errors import AtelierError, BadInput
from atelier.files import write_atomic
from atelier.home import Home
from atelier.http_client import is_ready
from atelier.stores.base_files import resolve_base, resolve_vae
from commands.serve.smoke import NOTE
from commands.serve.supervisor import Service, Supervisor
from commands.verb import Answer
from services.triton.process import free_port
from services.triton.runtime import find_runtime
from services.triton.settings import ServerSettings, TritonSettings

if TYPE_CHECKING:
    from services.gateway.keys import KeyStore

BASE = "models/miniature"


def serve(
    base: Annotated[str, typer.Option(help="Base model: a folder or a hub id.")] = BASE,
    revision: Annotated[
        str | None, typer.Option(help="Revision of a hub model: a commit, tag or branch.")
    ] = None,
    vae: Annotated[
        str | None, typer.Option(help="VAE that replaces the base's own: a folder or a hub id.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the gateway; 0 picks a free one.")] = 8080,
    host: Annotated[str, typer.Option(help="Address of the gateway.")] = "127.0.0.1",
    triton_http_port: Annotated[
        int, typer.Option(help="HTTP port of Triton; 0: any free port.")
    ] = 0,
    triton_grpc_port: Annotated[
        int, typer.Option(help="gRPC port of Triton; 0: any free port.")
    ] = 0,
    triton_metrics_port: Annotated[
        int, typer.Option(help="Metrics port of Triton; 0: any free port.")
    ] = 0,
    replica: Annotated[str, typer.Option(help="Name of this replica.")] = "local",
    gateway: Annotated[bool, typer.Option(help="Also run the gateway.")] = True,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Number of gateway processes on the port.")
    ] = 1,
) -> Answer:
    """Serve one base and all released adapters until Ctrl-C or SIGTERM.

    Use the base, revision and VAE of the recipe: a version serves only with the base and VAE that
    it was judged with. Unfinished promotions are completed; logs/settling.log has the details.
    Engine, agent and gateway read ATELIER_* variables: docs/settings.md.
    """
    home = Home.find()
    addresses = Addresses(
        gateway=_own_port(host, port, "--port"),
        http=_own_port("127.0.0.1", triton_http_port, "--triton-http-port"),
        grpc=_own_port("127.0.0.1", triton_grpc_port, "--triton-grpc-port"),
        metrics=_own_port("127.0.0.1", triton_metrics_port, "--triton-metrics-port"),
        host=host,
    )
    settings = TritonSettings.read()
    find_runtime(home.root / "triton", executable=settings.executable)
    model = ServedModel(resolve_base(base, revision), resolve_vae(vae) if vae else None)
    services = plan_services(
        home, model, addresses, replica=replica, workers=workers if gateway else 0
    )
    supervisor = Supervisor(services, say=lambda text: print(text, file=sys.stderr, flush=True))
    before = {
        number: signal.signal(number, supervisor.stop) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        with contextlib.ExitStack() as stack:
            supervisor.run(
                on_ready=lambda: stack.enter_context(
                    _announced(supervisor, home, addresses, gateway=gateway)
                )
            )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return Answer(text="stopped", data={"stopped": True})


@dataclass(frozen=True)
class ServedModel:
    """The folders of the base, and of a VAE if it is not the base's own."""

    base: Path
    vae: Path | None = None


@dataclass(frozen=True)
class Addresses:
    """The ports of one replica. Triton listens on loopback only."""

    gateway: int
    http: int
    grpc: int
    metrics: int
    host: str = "127.0.0.1"

    def to_json(self, *, gateway: bool) -> dict[str, str]:
        """The addresses for clients on this machine."""
        gateway_at = host_port(reachable(self.host), self.gateway)
        found = {
            "triton_http": f"http://127.0.0.1:{self.http}",
            "triton_grpc": f"127.0.0.1:{self.grpc}",
            "triton_metrics": f"http://127.0.0.1:{self.metrics}/metrics",
        }
        return {**({"gateway": f"http://{gateway_at}"} if gateway else {}), **found}


def plan_services(
    home: Home, model: ServedModel, addresses: Addresses, *, replica: str, workers: int = 1
) -> list[Service]:
    """The processes of one replica, in their start order. With 0 workers there is no gateway.

    BadInput names an environment variable with an invalid value.
    """
    shared = {
        **os.environ,
        "ATELIER_HOME": str(home.root),
        "ATELIER_REPLICA": replica,
        "MLFLOW_TRACKING_URI": home.tracking_uri,
        "PYTHONPATH": os.pathsep.join(
            [
                str(Path(__file__).resolve().parents[2]),
                *filter(None, [os.environ.get("PYTHONPATH")]),
            ]
        ),
        "PYTHONUNBUFFERED": "1",
    }
    ports = {
        "ATELIER_TRITON_HTTP_PORT": str(addresses.http),
        "ATELIER_TRITON_GRPC_PORT": str(addresses.grpc),
    }
    triton = {
        **ports,
        "ATELIER_BASE": str(model.base.absolute()),
        "ATELIER_REVISION": "",  # a folder has none
        "ATELIER_VAE": str(model.vae.absolute()) if model.vae else "",
        "ATELIER_TRITON_METRICS_PORT": str(addresses.metrics),
    }
    front = {
        "ATELIER_TRITON_URL": f"grpc://127.0.0.1:{addresses.grpc}",
        "ATELIER_GATEWAY_HOST": addresses.host,
        "ATELIER_GATEWAY_PORT": str(addresses.gateway),
        "ATELIER_GATEWAY_WORKERS": str(workers),
    }
    reports = ReplicaFolder(home.replicas)
    urls = addresses.to_json(gateway=True)
    from services.agent.settings import AgentSettings  # brings numpy: for this verb alone

    drain = ServerSettings.read({**shared, **triton}).drain_seconds
    AgentSettings.read({**shared, **ports})

    def reported() -> bool:
        report = reports.list().get(replica)
        return report is not None and report.live()

    services = [
        Service(
            name="triton",
            argv=_module("services.triton"),
            env={**shared, **triton},
            log=home.logs / "triton.log",
            ready=lambda: is_ready(f"{urls['triton_http']}/v2/health/ready"),
            start_seconds=600.0,
            grace=drain + 10.0,
        ),
        Service(
            name="agent",
            argv=_module("services.agent"),
            env={**shared, **ports},  # the agent's report names them
            log=home.logs / "agent.log",
            ready=reported,
        ),
    ]
    if workers:
        from services.gateway.settings import (
            Settings,
        )  # imports sqlalchemy, which only this verb needs

        Settings.read({**shared, **front})
        services.append(
            Service(
                name="gateway",
                argv=_module("services.gateway"),
                env={**shared, **front},
                log=home.logs / "gateway.log",
                ready=lambda: is_ready(f"{urls['gateway']}/readyz"),
                grace=40.0,
            )
        )
    services.append(
        Service(
            name="settling",
            argv=_module("commands.serve.reconcile"),
            env=shared,
            log=home.logs / "settling.log",
            ready=lambda: True,  # no other process waits for it
        )
    )
    return services


@contextlib.contextmanager
def _announced(
    supervisor: Supervisor, home: Home, addresses: Addresses, *, gateway: bool
) -> Iterator[None]:
    """Print the addresses, and leave them and the smoke key in the home while this replica runs.

    Only the owner may read the note: the key draws images.
    """
    found, note = addresses.to_json(gateway=gateway), home.root / NOTE
    keys = _smoke_keys(home, note) if gateway else None
    key, record = keys.create("smoke check of atelier serve") if keys else (None, None)
    pids = {one.name: supervisor.pid(one.name) for one in supervisor.services}
    contents = {**found, "smoke_key": key, "pid": os.getpid(), "pids": pids}
    write_atomic(note, json.dumps(contents, indent=2), mode=0o600)
    for name, url in found.items():
        supervisor.say(f"{name.replace('_', ' ')}: {url}")
    try:
        yield
    finally:
        note.unlink(missing_ok=True)
        if keys and record:
            with contextlib.suppress(AtelierError):  # a database that is away delays no stop
                keys.revoke(record.id)


def _smoke_keys(home: Home, note: Path) -> "KeyStore":
    """The gateway's keys; the one of a `serve` that was killed is revoked."""
    from services.gateway.keys import KeyStore  # brings sqlalchemy: for this verb alone

    keys = KeyStore(home.database_url)
    with contextlib.suppress(FileNotFoundError, ValueError, IndexError, BadInput):
        left = json.loads(note.read_bytes()).get("smoke_key")
        if left:
            keys.revoke(str(left).split("_")[1])
    return keys


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", name]


def _own_port(host: str, port: int, option: str) -> int:
    """The port, or a free one for 0. BadInput if the port is in use."""
    if port == 0:
        return free_port(host)
    try:
        listen(host, port).close()
    except OSError as error:
        raise BadInput(
            f"{option} {port}: {host_port(host, port)} cannot be used ({error.strerror}); "
            "choose another, or 0 for a free one"
        ) from error
    return port
