"""Brings an artifact into a folder: `python -m services.storage mlflow://bases/<hex> /mnt/models`.

KServe calls a ClusterStorageContainer so, once in each new pod. The folder is a volume's mount
point, so each file appears in it whole and verified, and the exit code says that all are there.
Called again, it brings what is missing. Exit codes: 2 for an address that cannot be served, 3 where
MLflow was away for longer than --patience.
"""

import argparse
import logging
import os
import sys
import time
from pathlib import Path

from atelier.data.names import ArtifactRef
from atelier.errors import BadInput, Unavailable
from atelier.failures import run_process
from atelier.home import Home
from atelier.logs import log_to
from atelier.retry import patiently
from atelier.stores.artifacts import Artifacts

logger = logging.getLogger("services.storage")

PATIENCE = 600.0  # seconds


def bring(uri: str, target: Path, tracking_uri: str, patience: float) -> None:
    """Fill `target` with what the address means."""
    ref = ArtifactRef.parse(uri)
    started = time.monotonic()
    brought = patiently(
        lambda: _once(ref, target, tracking_uri), seconds=patience, told=logger.warning
    )
    seconds = time.monotonic() - started
    logger.info("%s is in %s (%d MiB brought, %.0f s)", ref, target, brought >> 20, seconds)


def _once(ref: ArtifactRef, target: Path, tracking_uri: str) -> int:
    """What a broken attempt has brought already stays, verified."""
    try:
        return Artifacts(tracking_uri).fill(ref, target, progress=_told)
    except OSError as error:
        raise Unavailable(f"{target}: {error.strerror}; make room, or let it be written") from error


def _told(doing: str, done: int, total: int) -> None:
    logger.info("%s: %d of %d MiB", doing, done, total)


def main(arguments: list[str] | None = None) -> int:
    """The exit code (see atelier.errors)."""
    parser = argparse.ArgumentParser(prog="python -m services.storage", description=__doc__)
    parser.add_argument("uri", help="mlflow://<kind>/<hex>")
    parser.add_argument("target", type=Path, help="the folder to fill")
    parser.add_argument("--registry", help="MLflow's address (default: MLFLOW_TRACKING_URI)")
    parser.add_argument(
        "--patience", type=float, default=PATIENCE, help="seconds that MLflow may be away"
    )
    options = parser.parse_args(arguments)
    log_to(sys.stderr, format="%(asctime)s %(name)s: %(message)s")

    def work() -> None:
        home = Home.find()
        registry = options.registry or home.tracking_uri
        if registry.startswith("sqlite:") and "MLFLOW_TRACKING_URI" not in os.environ:
            raise BadInput("MLFLOW_TRACKING_URI is not set; give the registry's address")
        bring(options.uri, options.target, registry, options.patience)

    return run_process(work)


if __name__ == "__main__":
    sys.exit(main())
