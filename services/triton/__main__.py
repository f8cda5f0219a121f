"""Serves the engine by Triton until told to stop: `python -m services.triton`.

Ends with an error when the server or its model's process dies, so that whoever keeps this process
(the supervisor, Kubernetes) starts it again: Triton alone goes on as a shell that answers nothing.
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
    """Serve until SIGTERM or SIGINT; AtelierError where the server or its model ends before."""
    settings = ServerSettings.read()
    folder = resolve_base(settings.base, settings.revision)
    vae = resolve_vae(settings.vae) if settings.vae else None
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    server = TritonServer(Home(settings.home), folder, settings, vae=vae)
    server.start(wait=False)
    try:
        while not told.wait(0.2):
            if (why := server.failure()) is not None:
                raise AtelierError(why)
    finally:
        server.stop()


def main() -> int:
    """The exit code."""
    return run_process(serve)


if __name__ == "__main__":
    sys.exit(main())
