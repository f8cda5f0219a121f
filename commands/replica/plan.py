"""The processes of one replica: their commands, environments and readiness checks."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from atelier.addresses import host_port, listen, reachable
from atelier.contract.replica import ReplicaFolder
from atelier.errors import BadInput
from atelier.home import Home
from atelier.http_client import is_ready
from atelier.stores.base_files import resolve_base, resolve_vae
from commands.replica.supervisor import Service
from services.engine.settings import EngineSettings
from services.triton.process import free_port
from services.triton.runtime import find_runtime
from services.triton.settings import ServerSettings, TritonSettings

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True)
class ServedModel:
    """The folder of the base, and the folder of a VAE that replaces the VAE of the base."""

    base: Path
    vae: Path | None = None

    @classmethod
    def resolve(cls, base: str, revision: str | None, vae: str | None) -> Self:
        """Download models from the hub if needed, and return the folders of the models.

        Raises BaseError if a model is missing or cannot be served.
        """
        return cls(resolve_base(base, revision), resolve_vae(vae) if vae else None)


@dataclass(frozen=True)
class Addresses:
    """The ports of one replica. Triton listens on loopback only."""

    gateway: int
    http: int
    grpc: int
    metrics: int
    host: str = LOOPBACK

    def to_json(self, *, gateway: bool) -> dict[str, str]:
        """Return the addresses for clients on this machine, by name."""
        gateway_at = host_port(reachable(self.host), self.gateway)
        addresses = {"gateway": f"http://{gateway_at}"} if gateway else {}
        return addresses | {
            "triton_http": f"http://{LOOPBACK}:{self.http}",
            "triton_grpc": f"{LOOPBACK}:{self.grpc}",
            "triton_metrics": f"http://{LOOPBACK}:{self.metrics}/metrics",
        }


def unused_port(host: str, port: int, option: str) -> int:
    """Return the port, or a free port for 0. Raises BadInput if the port cannot be used."""
    if port == 0:
        return free_port(host)
    try:
        listen(host, port).close()
    except OSError as error:
        raise BadInput(
            f"{option} {port}: {host_port(host, port)} cannot be used ({error.strerror}); "
            "choose another port, or 0 for a free one"
        ) from error
    return port


def require_servable(home: Home) -> None:
    """Check the settings of Triton and of the engine, and check that Triton is installed.

    Called before the download of the models. Raises BadInput that names the variable if an
    environment variable has an invalid value.
    """
    settings = TritonSettings.read()
    EngineSettings.read()
    find_runtime(home.root / "triton", executable=settings.executable)


def plan_services(
    home: Home, model: ServedModel, addresses: Addresses, *, replica: str, workers: int = 1
) -> list[Service]:
    """Return the processes of one replica in start order. With 0 workers there is no gateway.

    Raises BadInput that names the variable if an environment variable has an invalid value.
    """
    shared = _shared_environment(home, replica)
    services = [
        _triton(home, model, addresses, shared),
        _agent(home, addresses, shared, replica),
    ]
    if workers:
        services.append(_gateway(home, addresses, shared, workers))
    services.append(
        Service(
            name="reconciler",
            argv=_module("pipelines.delivery.local.reconcile_loop"),
            env=shared,
            log=home.logs / "reconciler.log",
            ready=lambda: True,  # no other process depends on the reconciler
        )
    )
    return services


def _shared_environment(home: Home, replica: str) -> dict[str, str]:
    program = str(Path(__file__).resolve().parents[2])
    path = [program, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "ATELIER_HOME": str(home.root),
        "ATELIER_REPLICA": replica,
        "MLFLOW_TRACKING_URI": home.tracking_uri,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
    }


def _triton_ports(addresses: Addresses) -> dict[str, str]:
    return {
        "ATELIER_TRITON_HTTP_PORT": str(addresses.http),
        "ATELIER_TRITON_GRPC_PORT": str(addresses.grpc),
    }


def _triton(
    home: Home, model: ServedModel, addresses: Addresses, shared: dict[str, str]
) -> Service:
    url = addresses.to_json(gateway=False)["triton_http"]
    settings = {
        **_triton_ports(addresses),
        "ATELIER_TRITON_METRICS_PORT": str(addresses.metrics),
        "ATELIER_BASE": str(model.base.absolute()),
        "ATELIER_REVISION": "",  # `base` is a folder, which has no revisions
        "ATELIER_VAE": str(model.vae.absolute()) if model.vae else "",
    }
    drain = ServerSettings.read({**shared, **settings}).drain_seconds
    return Service(
        name="triton",
        argv=_module("services.triton"),
        env={**shared, **settings},
        log=home.logs / "triton.log",
        ready=lambda: is_ready(f"{url}/v2/health/ready"),
        start_seconds=600.0,
        grace=drain + 10.0,
    )


def _agent(home: Home, addresses: Addresses, shared: dict[str, str], replica: str) -> Service:
    from services.agent.settings import AgentSettings

    settings = _triton_ports(addresses)  # the agent publishes these ports in its report
    AgentSettings.read({**shared, **settings})
    reports = ReplicaFolder(home.replicas)

    def has_live_report() -> bool:
        report = reports.list().get(replica)
        return report is not None and report.live()

    return Service(
        name="agent",
        argv=_module("services.agent"),
        env={**shared, **settings},
        log=home.logs / "agent.log",
        ready=has_live_report,
    )


def _gateway(home: Home, addresses: Addresses, shared: dict[str, str], workers: int) -> Service:
    from services.gateway.settings import GatewaySettings  # imports sqlalchemy

    url = addresses.to_json(gateway=True)["gateway"]
    settings = {
        "ATELIER_TRITON_URL": f"grpc://{LOOPBACK}:{addresses.grpc}",
        "ATELIER_GATEWAY_HOST": addresses.host,
        "ATELIER_GATEWAY_PORT": str(addresses.gateway),
        "ATELIER_GATEWAY_WORKERS": str(workers),
    }
    GatewaySettings.read({**shared, **settings})
    return Service(
        name="gateway",
        argv=_module("services.gateway"),
        env={**shared, **settings},
        log=home.logs / "gateway.log",
        ready=lambda: is_ready(f"{url}/readyz"),
        grace=40.0,
    )


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", name]
