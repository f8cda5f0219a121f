"""Run the agent of one replica until SIGTERM or SIGINT: `python -m services.agent --home DIR`.

With `--kubernetes`, the agent reads releases from the namespace's ConfigMaps, writes its report to
Leases, and serves probes and metrics on port 9100. ATELIER_SIGNATURES (off, warn, enforce) and
ATELIER_SIGNERS set the signature policy (docs/signing.md). docs/settings.md has all settings.
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
from atelier.stores.registry import Registry
from services.agent.agent import Agent, ReplicaIdentity
from services.agent.health import HealthServer, Pulse
from services.agent.samples import SampleUploader
from services.agent.settings import AgentSettings

logger = logging.getLogger("services.agent")

POLL_SECONDS = 0.25
HTTP_PORT, GRPC_PORT, HEALTH_PORT = 8080, 9000, 9100  # ports of a serving pod


def run(
    home: Home,
    identity: ReplicaIdentity,
    environment: Environment,
    tracking_uri: str,
    policy: SignaturePolicy,
    samples: SampleUploader,
    *,
    health: int | None,
) -> None:
    """Run rounds until SIGTERM or SIGINT. Raises AtelierError if another agent uses the volume."""
    busy = AtelierError(f"{home.volume}: another agent uses this volume; stop it first")
    with locked(home.volume / ".agent.lock", busy=busy):
        _run_alone(home, identity, environment, tracking_uri, policy, samples, health)


def _run_alone(
    home: Home,
    identity: ReplicaIdentity,
    environment: Environment,
    tracking_uri: str,
    policy: SignaturePolicy,
    samples: SampleUploader,
    health: int | None,
) -> None:
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    agent = Agent(
        identity=identity,
        volume=home.volume,
        releases=environment.releases,
        reports=environment.replicas,
        registry=lambda: Registry(tracking_uri),
        policy=policy,
    )
    pulse = Pulse()
    server = HealthServer(agent, pulse, "", health) if health is not None else None
    logger.info("replica %s: registry %s, volume %s", identity.replica, tracking_uri, home.volume)
    # imported early, because the import takes seconds and would delay the first release
    slow = ["mlflow"]
    if policy.policy != "off":
        logger.info("signatures: %s %s", policy.policy, ", ".join(s.label for s in policy.signers))
        slow.append("model_signing.verifying")
    threading.Thread(target=lambda: [*map(importlib.import_module, slow)], daemon=True).start()
    samples.start()
    while not ended.wait(POLL_SECONDS):
        try:
            agent.sync()
        except OSError:  # the disk is full or missing; the replica continues with its last state
            logger.exception("a round failed")
        pulse.beat()
    samples.close()
    agent.close(withdraw=health is not None)
    if server is not None:
        server.close()


def pod_identity(pod: Pod, settings: AgentSettings) -> ReplicaIdentity:
    """Return the identity of a serving pod, with the addresses of its engine."""
    return ReplicaIdentity(
        replica=pod.name,
        address=host_port(pod.ip, settings.http_port or HTTP_PORT),
        grpc=host_port(pod.ip, settings.grpc_port or GRPC_PORT),
        pool=settings.pool,
    )


def on_cluster(settings: AgentSettings, tracking_uri: str | None, port: int) -> None:
    """Run the agent of a serving pod."""
    home, pod = Home(settings.home), Pod.find()
    environment = watching(Api.connect(pod.namespace), pod, home.root / "cluster")
    policy = SignaturePolicy.of(settings)
    identity = pod_identity(pod, settings)
    uri = tracking_uri or home.tracking_uri
    samples = SampleUploader(home.volume, lambda: Registry(uri), settings.environment)
    run(home, identity, environment, uri, policy, samples, health=port)


def on_machine(settings: AgentSettings, tracking_uri: str | None) -> None:
    """Run the agent of a home on one machine."""
    home, http, grpc = Home(settings.home), settings.http_port, settings.grpc_port
    identity = ReplicaIdentity(
        replica=settings.replica,
        address=f"127.0.0.1:{http}" if http else None,
        grpc=f"127.0.0.1:{grpc}" if grpc else None,
    )
    policy = SignaturePolicy.of(settings)
    uri = tracking_uri or home.tracking_uri
    samples = SampleUploader(home.volume, lambda: Registry(uri), settings.environment)
    run(home, identity, local(home), uri, policy, samples, health=None)


def main(argv: list[str] | None = None) -> int:
    """Parse the arguments, run the agent and return the exit code."""
    options = argparse.ArgumentParser(prog="services.agent", description=__doc__)
    options.add_argument("--home", type=Path, help="default: ATELIER_HOME")
    options.add_argument("--replica", help="default: ATELIER_REPLICA")
    options.add_argument("--registry", help="MLflow's address; default: MLFLOW_TRACKING_URI")
    options.add_argument("--kubernetes", action="store_true", help="run in a pod")
    options.add_argument(
        "--port",
        type=int,
        default=HEALTH_PORT,
        help="with --kubernetes: probes and metrics",
    )
    chosen = options.parse_args(argv)
    log_to(sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    overrides = {"home": chosen.home and chosen.home.absolute(), "replica": chosen.replica}

    def work() -> None:
        settings = AgentSettings.read().model_copy(
            update={field: value for field, value in overrides.items() if value}
        )
        if chosen.kubernetes:
            on_cluster(settings, chosen.registry, chosen.port)
        else:
            on_machine(settings, chosen.registry)

    return run_process(work)


if __name__ == "__main__":
    sys.exit(main())
