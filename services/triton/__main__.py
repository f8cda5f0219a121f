"""Serve the engine with Triton until SIGTERM or SIGINT: `python -m services.triton`.

If the server or the process of the model dies, this process exits with an error, so that its
supervisor or Kubernetes restarts it. Triton itself keeps running without the model but does not
respond to requests.
"""

import signal
import sys
import threading

from atelier.errors import AtelierError
from atelier.failures import run_process
from atelier.home import Home
from atelier.stores.base_files import resolve_base, resolve_vae
from services.triton.server import TritonServer
from services.triton.settings import ServerSettings


def serve() -> None:
    """Serve until SIGTERM or SIGINT. Raises AtelierError if server or model ends before that."""
    settings = ServerSettings.read()
    folder = resolve_base(settings.base, settings.revision)
    vae = resolve_vae(settings.vae) if settings.vae else None
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    server = TritonServer(Home(settings.home), folder, settings, vae=vae)
    server.start(wait=False)
    try:
        while not stopping.wait(0.2):
            if (failure := server.failure()) is not None:
                raise AtelierError(failure)
    finally:
        server.stop()


def main() -> int:
    """Run `serve` and return the exit code."""
    return run_process(serve)


if __name__ == "__main__":
    sys.exit(main())
