"""The entry point of a compilation Job: compiles a base's UNet and registers the compiled engine.

python -m pipelines.compile.compile_job --spec '{"base": …}'

The base comes from MLflow. The engine is uploaded to MLflow under its key. The last line of the
output is the address of the engine. $ATELIER_HOME is a volume that outlives the pod, so the next
pod reuses the fetched base and an engine that was not uploaded. The Job's podFailurePolicy depends
on the exit code: 0 an engine is registered, 1 its results differ from torch, 2 bad input, 3 a
service was unavailable for longer than --patience, 143 SIGTERM stopped the run.
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

PATIENCE = 600.0  # seconds that MLflow may be unavailable before the pod fails

Answer = TypeVar("Answer")


def run(
    spec: CompilationSpec, home: Home, *, patience: float = PATIENCE, tensorrt: str | None = None
) -> ArtifactRef:
    """Compile the spec's engine unless the registry contains it; return its address.

    `tensorrt` is a folder of TensorRT's libraries, `patience` is in seconds. Raises Refused if the
    results differ from torch's, and BadInput if this machine cannot build the engine.
    """

    def ask(question: Callable[[Artifacts], Answer]) -> Answer:
        def once() -> Answer:
            return question(Artifacts(home.tracking_uri))

        return patiently(once, seconds=patience, on_retry=logger.warning)

    existing_ref = ask(lambda artifacts: artifacts.made_from("engines", spec.digest))
    if existing_ref is not None:
        logger.info("%s exists already; it was made from the same inputs", existing_ref)
        return existing_ref
    base_ref = ArtifactRef.of("bases", spec.base)
    logger.info("%s", base_ref)
    folder = home.root / "artifacts" / base_ref.kind / base_ref.key
    ask(lambda artifacts: artifacts.get(base_ref, folder, progress=_log_progress))
    request = CompileRequest.of_job(spec, folder, tensorrt=tensorrt)

    with collection_paused():
        from pipelines.compile.unet import existing, load, make  # imports torch

    base, compile_spec = load(request, _log_progress)
    ref = ArtifactRef("engines", compile_spec.key)
    output = home.root / "compiled" / hex_of(spec.digest)[:12]
    if not ask(lambda artifacts: artifacts.exists(ref)):
        _clear(output)
        if existing(output, compile_spec) is None:
            make(base, compile_spec, output, _log_progress, tensorrt=tensorrt)
        ask(lambda artifacts: artifacts.put(ref, output, progress=_log_progress))
    ask(lambda artifacts: artifacts.mark(ref, spec.digest))
    shutil.rmtree(output, ignore_errors=True)  # MLflow has the engine; Jobs may share the volume
    return ref


def _clear(output: Path) -> None:
    """Delete the temporary folders (gigabytes) of killed pods.

    No other pod of the Job is running.
    """
    for leftover in output.parent.glob(f".{output.name}.*"):
        shutil.rmtree(leftover)


def _log_progress(doing: str, done: int, total: int) -> None:
    if done in (0, total):
        logger.info("%s: %d/%d", doing, done, total)


def main(arguments: list[str] | None = None) -> int:
    """Run the Job; return the exit code (see atelier.errors)."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.compile.compile_job", description=__doc__
    )
    parser.add_argument("--spec", required=True, help="the base's digest and the options (JSON)")
    parser.add_argument(
        "--patience", type=float, default=PATIENCE, help="seconds that MLflow may be unavailable"
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
    """Exit at once on SIGTERM, from a thread.

    A signal handler would run only after TensorRT's build, which takes minutes.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        signal.sigwait({signal.SIGTERM})
        print("stopped; the next pod starts again with the base on the volume", file=sys.stderr)
        sys.stderr.flush()
        os._exit(Interrupted.exit_code)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
