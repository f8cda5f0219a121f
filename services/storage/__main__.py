"""Download an artifact: `python -m services.storage mlflow://bases/<hex> /mnt/models`.

KServe runs a ClusterStorageContainer with this command line once in each new pod. The folder is a
mount point, which cannot be replaced as a whole, so each file appears in it complete and verified.
A second run downloads only the missing files. Exit codes: 0 if all files are in the folder, 2 for
an invalid address, 3 if MLflow is unavailable for longer than --patience.
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

PATIENCE = 600.0  # seconds to retry by default


def download(uri: str, target: Path, tracking_uri: str, patience: float) -> None:
    """Download the artifact of `uri` into `target`. Retry for `patience` seconds.

    Raises BadInput if the address names no artifact, and Unavailable if MLflow stays unavailable or
    `target` cannot be written.
    """
    ref = ArtifactRef.parse(uri)
    started = time.monotonic()
    size = patiently(
        lambda: _fill(ref, target, tracking_uri), seconds=patience, on_retry=logger.warning
    )
    seconds = time.monotonic() - started
    logger.info("%s is in %s (%d MiB downloaded, %.0f s)", ref, target, size >> 20, seconds)


def _fill(ref: ArtifactRef, target: Path, tracking_uri: str) -> int:
    """Download the missing files and return their bytes. After a failure, verified files stay."""
    try:
        return Artifacts(tracking_uri).fill(ref, target, progress=_log_progress)
    except OSError as error:
        raise Unavailable(
            f"{target}: {error.strerror}; free some space, or make the folder writable"
        ) from error


def _log_progress(doing: str, done: int, total: int) -> None:
    logger.info("%s: %d of %d MiB", doing, done, total)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code (see atelier.errors)."""
    parser = argparse.ArgumentParser(prog="python -m services.storage", description=__doc__)
    parser.add_argument("uri", help="mlflow://<kind>/<hex>")
    parser.add_argument("target", type=Path, help="the folder to fill")
    parser.add_argument("--registry", help="address of MLflow (default: MLFLOW_TRACKING_URI)")
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE,
        help="seconds to retry while MLflow is unavailable",
    )
    options = parser.parse_args(arguments)
    log_to(sys.stderr, format="%(asctime)s %(name)s: %(message)s")

    def work() -> None:
        home = Home.find()
        registry = options.registry or home.tracking_uri
        if registry.startswith("sqlite:") and "MLFLOW_TRACKING_URI" not in os.environ:
            raise BadInput("MLFLOW_TRACKING_URI: not set; set it, or give --registry URL")
        download(options.uri, options.target, registry, options.patience)

    return run_process(work)


if __name__ == "__main__":
    sys.exit(main())
