"""Start, check and stop a Triton server that serves the engine.

This module compensates for three properties of Triton:

- If the process of the model dies, Triton stays "ready" but does not respond to requests. `failure`
  detects this.
- At a stop, Triton waits its whole exit timeout for an idle keep-alive connection and then exits
  with unfinished requests. `stop` therefore drains the model first.
- A killed Triton leaves processes and shared memory behind. `stop` and `start` remove them.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from atelier.addresses import host_port, reachable
from atelier.data.names import hex_of
from atelier.errors import AtelierError, Unavailable
from atelier.files import locked, sha256_bytes
from atelier.home import Home
from atelier.http_client import is_ready
from services.triton.control import ControlFolder
from services.triton.process import alive, free_port, roll, spawn, stop, tail
from services.triton.runtime import Runtime, find_runtime
from services.triton.settings import TritonSettings

MODEL = "atelier"
SHARED_MEMORY = Path("/dev/shm")
SHARED_BYTES = 16 * 2**20  # initial size and growth; an image of 1024×1024 pixels has 3 MiB
START_SECONDS = 600.0  # SDXL takes minutes to load from a cold disk
_GRACE_SECONDS = 2.0  # seconds between SIGTERM and SIGKILL if the server has no requests


class TritonServer:
    """The Triton server of a home. Use it as a context manager, or call `start` and `stop`."""

    def __init__(
        self,
        home: Home,
        base: Path,
        settings: TritonSettings,
        *,
        vae: Path | None = None,  # replaces the VAE of the base
        environment: Mapping[str, str] | None = None,  # default: os.environ
        start_seconds: float = START_SECONDS,
    ):
        """Choose the ports. `base` and `vae` are folders. `start` starts the server."""
        self.home = home
        self.base = Path(base)
        self.vae = vae
        self.settings = settings
        self._environment = os.environ if environment is None else environment
        self._start_seconds = start_seconds
        host = self.settings.host
        self.http_port = self.settings.http_port or free_port(host)
        self.grpc_port = self.settings.grpc_port or free_port(host)
        self.metrics_port = self.settings.metrics_port or free_port(host)
        self.log = home.logs / "tritonserver.log"
        self._folder = home.root / "triton"
        self._control = ControlFolder(self._folder / "control")
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = contextlib.ExitStack()

    @property
    def pid(self) -> int | None:
        """The process id of the server, or None if it has not been started."""
        return self._process.pid if self._process else None

    @property
    def http_url(self) -> str:
        """The base URL of V2 over HTTP, with the scheme."""
        return f"http://{host_port(reachable(self.settings.host), self.http_port)}"

    @property
    def grpc_url(self) -> str:
        """The address of V2 over gRPC, `host:port` as tritonclient takes it."""
        return host_port(reachable(self.settings.host), self.grpc_port)

    def start(self, *, wait: bool = True) -> None:
        """Start the server. With `wait`, return when the model is ready.

        Raises AtelierError if another process serves this home, and BadInput if there is no
        tritonserver. With `wait`, raises Unavailable with the last lines of Triton's log if the
        server ends or is not ready within `start_seconds`.
        """
        busy = AtelierError(
            f"{self.home.root}: already served by another process; stop that process, "
            "or set ATELIER_HOME to another folder"
        )
        self._lock.enter_context(locked(self._folder / "lock", busy=busy))
        try:
            self._control.clear()
            self._remove_shared_memory()
            roll(self.log)
            runtime = find_runtime(self._folder, executable=self.settings.executable)
            self._process = spawn(
                self._command(runtime),
                env=runtime.environment({**self._environment, **self._model_environment()}),
                log=self.log,
                when_orphaned=signal.SIGKILL,
            )
            if wait:
                self.wait_ready()
        except BaseException:
            self.stop(drain=False)
            raise

    def wait_ready(self) -> None:
        """Wait until the model is ready. Raises Unavailable with the end of the log if it fails."""
        deadline = time.monotonic() + self._start_seconds
        while not self.ready():
            if (failure := self.failure()) is not None:
                raise Unavailable(f"Triton did not start: {failure}")
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"Triton is not ready after {self._start_seconds:.0f} s; "
                    f"the end of {self.log}:\n{tail(self.log)}"
                )
            time.sleep(0.1)

    def ready(self) -> bool:
        """Return whether the server and its model are ready, and the model's process runs."""
        paths = ("/v2/health/ready", f"/v2/models/{MODEL}/ready")
        return self.failure() is None and all(is_ready(self.http_url + path) for path in paths)

    def failure(self) -> str | None:
        """Return the reason why the server cannot serve, with the end of its log, or None."""
        if self._process is None:
            return "tritonserver was not started"
        code = self._process.poll()
        if code is not None:
            status = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
            return f"tritonserver ended ({status}); the end of {self.log}:\n{tail(self.log)}"
        worker = self._control.worker()
        if worker is not None and not alive(worker):
            return (
                f"the model's process {worker} died inside tritonserver; the end of {self.log}:\n"
                f"{tail(self.log)}"
            )
        return None

    def stop(self, *, drain: bool = True) -> None:
        """End every process of the server.

        With `drain`, wait at most `drain_seconds` of the settings for running requests first.
        """
        process, self._process = self._process, None
        try:
            if process is not None:
                worker = self._control.worker()
                if drain and worker is not None and process.poll() is None and alive(worker):
                    self._control.drain(timeout=self.settings.drain_seconds + 1.0)
                stop(process, grace=_GRACE_SECONDS if drain else 0.0)
                _end(worker)
                self._remove_shared_memory()
        finally:
            self._lock.close()

    def __enter__(self) -> "TritonServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _shared_prefix(self) -> str:
        digest = sha256_bytes(str(self.home.root.resolve()).encode())
        return f"atelier_{hex_of(digest)[:12]}_"

    def _command(self, runtime: Runtime) -> list[str]:
        settings = self.settings
        ipv6 = ":" in settings.host  # Triton's HTTP and gRPC options differ in their syntax for it
        http = f"ipv6:{settings.host}" if ipv6 else settings.host
        options = {
            "model-repository": self._repository(),
            "http-address": http,
            "http-port": self.http_port,
            "grpc-address": f"[{settings.host}]" if ipv6 else settings.host,
            "grpc-port": self.grpc_port,
            "metrics-address": http,
            "metrics-port": self.metrics_port,
            "strict-readiness": "true",
            "exit-on-error": "true",
            "exit-timeout-secs": round(settings.drain_seconds) + 5,
            "log-format": "ISO8601",
        }
        if runtime.backends is not None:
            options["backend-directory"] = runtime.backends
        shared = {
            "shm-region-prefix-name": self._shared_prefix,
            "shm-default-byte-size": SHARED_BYTES,
            "shm-growth-byte-size": SHARED_BYTES,
        }
        return [
            str(runtime.executable),
            *(f"--{name}={value}" for name, value in options.items()),
            *(f"--backend-config=python,{name}={value}" for name, value in shared.items()),
        ]

    def _repository(self) -> Path:
        """Create a model repository with only this model, because Triton loads all its folders."""
        repository = self._folder / "models"
        link = repository / MODEL
        repository.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(Path(__file__).resolve().parent / MODEL)
        return repository

    def _model_environment(self) -> dict[str, str]:
        """Return the variables that this server sets. The model inherits the engine's variables."""
        return {
            "ATELIER_BASE": str(self.base.absolute()),
            "ATELIER_VAE": str(self.vae.absolute()) if self.vae else "",
            "ATELIER_VOLUME": str(self.home.volume),
            "ATELIER_REPLICA": self.settings.replica,
            "ATELIER_CONTROL": str(self._control.path),
            "ATELIER_DRAIN_SECONDS": str(self.settings.drain_seconds),
        }

    def _remove_shared_memory(self) -> None:
        """Remove the shared memory of a killed server of this home. No such server may run."""
        for region in SHARED_MEMORY.glob(f"{self._shared_prefix}*"):
            if region.is_dir():
                shutil.rmtree(region, ignore_errors=True)
            else:
                region.unlink(missing_ok=True)


def _end(worker: int | None) -> None:
    """Wait a moment for the model's process to end after its server, then kill it."""
    if worker is None:
        return
    deadline = time.monotonic() + _GRACE_SECONDS
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    if alive(worker):
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
