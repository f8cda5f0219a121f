"""Runs one replica's agent until told to stop: `python -m services.agent --home DIR`.

With `--kubernetes`, releases are the namespace's ConfigMaps, the report is a Lease, and probes and
Prometheus find it on port 9100. ATELIER_SIGNATURES (off, warn, enforce) and ATELIER_SIGNERS say
what is asked of a package's signature (docs/signing.md). Settings: docs/settings.md.
"""

import argparse
import importlib
import logging
import signal
import sys
import threading
from pathlib import Path

from atelier.adapter.signature_policy import SignaturePolicy
from atelier.addresses import host_port
from atelier.errors import AtelierError
from atelier.failures import run_process
from atelier.files import locked
from atelier.home import Home
from atelier.logs import log_to
from atelier.platform import Api, Pod, watching
from atelier.stores.environment import Environment, local
from atelier.stores.registry import LazyRegistry
from services.agent.agent import Agent, ReplicaIdentity
from services.agent.health import HealthServer, Pulse
from services.agent.settings import AgentSettings

logger = logging.getLogger("services.agent")

POLL_SECONDS = 0.25
HTTP_PORT, GRPC_PORT, HEALTH_PORT = 8080, 9000, 9100  # of a serving pod


def run(
    home: Home,
    place: ReplicaIdentity,
    environment: Environment,
    tracking_uri: str,
    trust: SignaturePolicy,
    *,
    health: int | None,
) -> None:
    """Sync until SIGTERM or SIGINT; two agents of one volume would undo each other's work."""
    busy = AtelierError(f"{home.volume}: another agent keeps this volume; stop it first")
    with locked(home.volume / ".agent.lock", busy=busy):
        _run_alone(home, place, environment, tracking_uri, trust, health)


def _run_alone(
    home: Home,
    place: ReplicaIdentity,
    environment: Environment,
    tracking_uri: str,
    trust: SignaturePolicy,
    health: int | None,
) -> None:
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    registry = LazyRegistry(tracking_uri)
    agent = Agent(
        place=place,
        volume=home.volume,
        releases=environment.releases,
        reports=environment.replicas,
        fetch=registry.download,
        signed=registry.signatures,
        trust=trust,
    )
    pulse = Pulse()
    server = HealthServer(agent, pulse, "", health) if health is not None else None
    logger.info("replica %s: registry %s, volume %s", place.replica, tracking_uri, home.volume)
    # these take seconds to import: not in the middle of the first release
    slow = ["mlflow"]
    if trust.policy != "off":
        logger.info("signatures: %s %s", trust.policy, ", ".join(s.label for s in trust.signers))
        slow.append("model_signing.verifying")
    threading.Thread(target=lambda: [*map(importlib.import_module, slow)], daemon=True).start()
    while not ended.wait(POLL_SECONDS):
        try:
            agent.sync()
        except OSError:  # a full or absent disk passes; the replica goes on meanwhile
            logger.exception("a round failed")
        pulse.beat()
    agent.close(withdraw=health is not None)
    if server is not None:
        server.close()


def place_in_pod(pod: Pod, settings: AgentSettings) -> ReplicaIdentity:
    """A serving pod, with the addresses at which gateways reach its engine."""
    return ReplicaIdentity(
        replica=pod.name,
        address=host_port(pod.ip, settings.http_port or HTTP_PORT),
        grpc=host_port(pod.ip, settings.grpc_port or GRPC_PORT),
        pool=settings.pool,
    )


def on_cluster(settings: AgentSettings, tracking_uri: str | None, port: int) -> None:
    """The agent of a serving pod."""
    home, pod = Home(settings.home), Pod.find()
    environment = watching(Api.connect(pod.namespace), pod, home.root / "cluster")
    trust = SignaturePolicy.of(settings)
    place = place_in_pod(pod, settings)
    run(home, place, environment, tracking_uri or home.tracking_uri, trust, health=port)


def on_machine(settings: AgentSettings, tracking_uri: str | None) -> None:
    """The agent of a home."""
    home, http, grpc = Home(settings.home), settings.http_port, settings.grpc_port
    place = ReplicaIdentity(
        replica=settings.replica,
        address=f"127.0.0.1:{http}" if http else None,
        grpc=f"127.0.0.1:{grpc}" if grpc else None,
    )
    trust = SignaturePolicy.of(settings)
    run(home, place, local(home), tracking_uri or home.tracking_uri, trust, health=None)


def main(argv: list[str] | None = None) -> int:
    """The exit code."""
    options = argparse.ArgumentParser(prog="services.agent", description=__doc__)
    options.add_argument("--home", type=Path, help="default: ATELIER_HOME")
    options.add_argument("--replica", help="default: ATELIER_REPLICA")
    options.add_argument("--registry", help="MLflow's address; default: MLFLOW_TRACKING_URI")
    options.add_argument("--kubernetes", action="store_true", help="in a pod, by its environment")
    options.add_argument(
        "--port", type=int, default=HEALTH_PORT, help="of probes and metrics, with --kubernetes"
    )
    chosen = options.parse_args(argv)
    log_to(sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    given = {"home": chosen.home and chosen.home.absolute(), "replica": chosen.replica}

    def work() -> None:
        settings = AgentSettings.read().model_copy(update={k: v for k, v in given.items() if v})
        if chosen.kubernetes:
            on_cluster(settings, chosen.registry, chosen.port)
        else:
            on_machine(settings, chosen.registry)

    return run_process(work)


if __name__ == "__main__":
    sys.exit(main())
