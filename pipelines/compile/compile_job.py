"""What a compile Job's container runs: from a base's digest to an engine in the registry.

python -m pipelines.compile.compile_job --spec '{"base": …}'

The base comes from MLflow, and what is made goes there, under its key; the last line that is
printed is its address. $ATELIER_HOME is a volume that outlives the container, so that what was
fetched, and an engine that could not be kept yet, need not be fetched or made again. Exit codes, by
which the Job's podFailurePolicy decides: 0 an engine is registered, 1 it does not compute what
torch does, 2 bad input, 3 a service was away for longer than --patience, 143 stopped by SIGTERM.
"""

import argparse
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from atelier.data.names import ArtifactRef, hex_of
from atelier.errors import Interrupted
from atelier.failures import run_process
from atelier.home import Home
from atelier.imports import collection_paused
from atelier.logs import log_to
from atelier.platform.jobs import CompilationSpec
from atelier.retry import patiently
from atelier.stores.artifacts import Artifacts
from pipelines.compile.request import CompileRequest
from pipelines.settings import JobSettings

logger = logging.getLogger("pipelines.compile.compile_job")

PATIENCE = 600.0  # seconds that MLflow may be away before the Job counts a failure

Answer = TypeVar("Answer")


def run(
    spec: CompilationSpec, home: Home, *, patience: float = PATIENCE, tensorrt: str | None = None
) -> ArtifactRef:
    """Make the spec's engine, or find it; its address.

    `tensorrt` is a folder of TensorRT's libraries. Refused where the result does not compute what
    torch does, BadInput where it cannot be made.
    """

    def ask(question: Callable[[Artifacts], Answer]) -> Answer:
        def once() -> Answer:
            return question(Artifacts(home.tracking_uri))

        return patiently(once, seconds=patience, told=logger.warning)

    known = ask(lambda artifacts: artifacts.made_from("engines", spec.digest))
    if known is not None:
        logger.info("%s exists already, made from the same inputs", known)
        return known
    where = ArtifactRef.of("bases", spec.base)
    logger.info("%s", where)
    folder = home.root / "artifacts" / where.kind / where.key
    ask(lambda artifacts: artifacts.get(where, folder, progress=_told))
    request = CompileRequest.of_job(spec, folder, tensorrt=tensorrt)

    with collection_paused():
        from pipelines.compile.unet import make, opened, there  # seconds of torch

    base, wanted = opened(request, _told)
    ref = ArtifactRef("engines", wanted.key)
    output = home.root / "compiled" / hex_of(spec.digest)[:12]
    if not ask(lambda artifacts: artifacts.exists(ref)):
        _clear(output)
        there(output, wanted) or make(base, wanted, output, _told, tensorrt=tensorrt)
        ask(lambda artifacts: artifacts.put(ref, output, progress=_told))
    ask(lambda artifacts: artifacts.mark(ref, spec.digest))
    shutil.rmtree(output, ignore_errors=True)  # it is in MLflow; the volume may be of many Jobs
    return ref


def _clear(output: Path) -> None:
    """Take away what killed pods left beside the output, gigabytes each; one runs at a time."""
    for left in output.parent.glob(f".{output.name}.*"):
        shutil.rmtree(left)


def _told(doing: str, done: int, total: int) -> None:
    if done in (0, total):
        logger.info("%s: %d/%d", doing, done, total)


def main(arguments: list[str] | None = None) -> int:
    """The exit code (see atelier.errors)."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.compile.compile_job", description=__doc__
    )
    parser.add_argument("--spec", required=True, help="what to compile (JSON)")
    parser.add_argument(
        "--patience", type=float, default=PATIENCE, help="seconds that MLflow may be away"
    )
    options = parser.parse_args(arguments)
    log_to(sys.stderr, format="%(message)s")
    _end_at_sigterm()

    def work() -> None:
        settings, spec = JobSettings.read(), CompilationSpec.parse(options.spec)
        home, tensorrt = Home(settings.home), settings.tensorrt
        print(run(spec, home, patience=options.patience, tensorrt=tensorrt))

    return run_process(work)


def _end_at_sigterm() -> None:
    """At once, and by a thread: a handler would wait for TensorRT, which builds for minutes."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        signal.sigwait({signal.SIGTERM})
        print("stopped; the next pod begins again with the base that is here", file=sys.stderr)
        sys.stderr.flush()
        os._exit(Interrupted.exit_code)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
