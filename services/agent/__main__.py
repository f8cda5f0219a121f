"""Runs one replica's agent until told to stop: `python -m services.agent --home DIR`.

With `--kubernetes`, releases are the namespace's ConfigMaps, the report is a Lease, and probes and
Prometheus find it on port 9100. ATELIER_SIGNATURES (off, warn, enforce) and ATELIER_SIGNERS say
what is asked of a package's signature (docs/signing.md).
"""

import argparse
import functools
import importlib
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from atelier.adapter.signature_policy import SignaturePolicy
from atelier.errors import AtelierError
from atelier.files import locked
from atelier.home import Home
from atelier.platform import Api, Pod, watching
from atelier.stores.environment import Environment, local
from atelier.stores.registry import Registry
from services.agent.agent import Agent, ReplicaIdentity
from services.agent.health import HealthServer, Pulse

logger = logging.getLogger("services.agent")

POLL_SECONDS = 0.25
HTTP_PORT, GRPC_PORT, HEALTH_PORT = 8080, 9000, 9100  # of a serving pod


def fetch(tracking_uri: str, name: str, version: int, folder: Path) -> None:
    """Bring a version's package into `folder`; a registry that is away is asked again later."""
    Registry(tracking_uri).fetch(name, version, folder)


def signed(tracking_uri: str, name: str, version: int) -> tuple[bytes, ...]:
    """A version's signatures, none where nobody has signed it."""
    return Registry(tracking_uri).signatures(name, version)


def run(
    home: Home,
    place: ReplicaIdentity,
    environment: Environment,
    tracking_uri: str,
    *,
    health: int | None,
) -> None:
    """Sync until SIGTERM or SIGINT; two agents of one volume would undo each other's work."""
    busy = AtelierError(f"{home.volume}: another agent keeps this volume; stop it first")
    with locked(home.volume / ".agent.lock", busy=busy):
        _run_alone(home, place, environment, tracking_uri, health)


def _run_alone(
    home: Home,
    place: ReplicaIdentity,
    environment: Environment,
    tracking_uri: str,
    health: int | None,
) -> None:
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    trust = SignaturePolicy.read(os.environ)
    agent = Agent(
        place=place,
        volume=home.volume,
        releases=environment.releases,
        reports=environment.replicas,
        fetch=functools.partial(fetch, tracking_uri),
        signed=functools.partial(signed, tracking_uri),
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


def on_cluster(home: Home, chosen: argparse.Namespace) -> None:
    """The agent of a serving pod."""
    pod = Pod.find()
    place = ReplicaIdentity(
        replica=pod.name,
        address=f"{pod.ip}:{_port('ATELIER_TRITON_HTTP_PORT', HTTP_PORT)}",
        grpc=f"{pod.ip}:{_port('ATELIER_TRITON_GRPC_PORT', GRPC_PORT)}",
        pool=os.environ.get("ATELIER_POOL") or None,
    )
    environment = watching(Api.connect(pod.namespace), pod, home.root / "cluster")
    tracking_uri = chosen.registry or home.tracking_uri
    run(home, place, environment, tracking_uri, health=chosen.port)


def on_machine(home: Home, chosen: argparse.Namespace) -> None:
    """The agent of a home."""
    http, grpc = (_port(f"ATELIER_TRITON_{kind}_PORT", 0) for kind in ("HTTP", "GRPC"))
    place = ReplicaIdentity(
        replica=chosen.replica,
        address=f"127.0.0.1:{http}" if http else None,
        grpc=f"127.0.0.1:{grpc}" if grpc else None,
    )
    run(home, place, local(home), chosen.registry or home.tracking_uri, health=None)


def _port(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or int(text) > 65535:
        raise AtelierError(f"{variable}={text}: not a port")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    """The exit code."""
    found = Home.find()
    options = argparse.ArgumentParser(prog="services.agent", description=__doc__)
    options.add_argument("--home", type=Path, default=found.root, help="default: ATELIER_HOME")
    options.add_argument("--replica", default=os.environ.get("ATELIER_REPLICA") or "local")
    options.add_argument("--registry", help="MLflow's address; default: MLFLOW_TRACKING_URI")
    options.add_argument("--kubernetes", action="store_true", help="in a pod, by its environment")
    options.add_argument(
        "--port", type=int, default=HEALTH_PORT, help="of probes and metrics, with --kubernetes"
    )
    chosen = options.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    home = Home(chosen.home.absolute())
    try:
        (on_cluster if chosen.kubernetes else on_machine)(home, chosen)
    except AtelierError as error:
        logger.error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
