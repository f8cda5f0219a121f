"""Runs one replica's agent until told to stop: `python -m services.agent --home DIR`."""

import argparse
import functools
import importlib
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from atelier.errors import AtelierError
from atelier.files import locked
from atelier.home import Home
from atelier.registry import Registry
from atelier.release import ReleaseFolder
from atelier.replica import ReplicaFolder
from services.agent.agent import Agent
from services.agent.releases import LocalReleases

logger = logging.getLogger("services.agent")

POLL_SECONDS = 0.25


def fetch(tracking_uri: str, name: str, version: int, folder: Path) -> None:
    """Bring a version's package into `folder`; a registry that is away is asked again later."""
    Registry(tracking_uri).fetch(name, version, folder)


def run(home: Home, replica: str, tracking_uri: str) -> None:
    """Sync until SIGTERM or SIGINT; two agents of one volume would undo each other's work."""
    busy = AtelierError(f"{home.volume}: another agent keeps this volume; stop it first")
    with locked(home.volume / ".agent.lock", busy=busy):
        _run_alone(home, replica, tracking_uri)


def _run_alone(home: Home, replica: str, tracking_uri: str) -> None:
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    agent = Agent(
        replica=replica,
        volume=home.volume,
        releases=LocalReleases(ReleaseFolder(home.releases)),
        reports=ReplicaFolder(home.replicas),
        fetch=functools.partial(fetch, tracking_uri),
    )
    logger.info("replica %s: releases in %s, registry %s", replica, home.releases, tracking_uri)
    # MLflow's client takes seconds to import: not in the middle of the first release
    threading.Thread(target=importlib.import_module, args=("mlflow",), daemon=True).start()
    while not ended.wait(POLL_SECONDS):
        try:
            agent.sync()
        except OSError:  # a full or absent disk passes; the replica goes on meanwhile
            logger.exception("a round failed")
    agent.close()


def main(argv: list[str] | None = None) -> int:
    """The exit code."""
    found = Home.find()
    options = argparse.ArgumentParser(prog="services.agent", description=__doc__)
    options.add_argument("--home", type=Path, default=found.root, help="default: ATELIER_HOME")
    options.add_argument("--replica", default=os.environ.get("ATELIER_REPLICA") or "local")
    options.add_argument("--registry", help="MLflow's address; default: MLFLOW_TRACKING_URI")
    chosen = options.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    home = Home(chosen.home.absolute())
    try:
        run(home, chosen.replica, chosen.registry or home.tracking_uri)
    except AtelierError as error:
        logger.error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
