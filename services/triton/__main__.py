"""Serves the engine by Triton until told to stop: `python -m services.triton`.

Ends with an error when the server or its model's process dies, so that whoever keeps this process
(the supervisor, Kubernetes) starts it again: Triton alone goes on as a shell that answers nothing.
"""

import os
import signal
import sys
import threading
from collections.abc import Mapping

from atelier.errors import AtelierError, BadInput
from atelier.home import Home
from atelier.stores.base_files import resolve_base, resolve_vae
from services.triton.server import TritonServer, TritonSettings
from services.triton.settings import drain_seconds, engine_settings


def settings_from(environment: Mapping[str, str]) -> TritonSettings:
    """The settings that ATELIER_* variables name, defaults for the others."""

    def port(name: str, default: int) -> int:
        text = environment.get(name) or str(default)
        if not text.isdecimal() or int(text) > 65535:
            raise BadInput(f"{name}={text}: not a port")
        return int(text)

    return TritonSettings(
        host=environment.get("ATELIER_TRITON_HOST") or "127.0.0.1",
        http_port=port("ATELIER_TRITON_HTTP_PORT", 8000),
        grpc_port=port("ATELIER_TRITON_GRPC_PORT", 8001),
        metrics_port=port("ATELIER_TRITON_METRICS_PORT", 8002),
        replica=environment.get("ATELIER_REPLICA") or "local",
        drain_seconds=drain_seconds(environment),
        executable=environment.get("ATELIER_TRITONSERVER") or None,
    )


def serve() -> None:
    """Start, say so, and keep it until a signal or its end."""
    model = os.environ.get("ATELIER_BASE")
    if not model:
        raise BadInput("ATELIER_BASE is not set; give the base's folder or its hub id")
    settings = settings_from(os.environ)
    engine_settings(os.environ)  # the model's, refused here before a server is there for it
    folder = resolve_base(model, os.environ.get("ATELIER_REVISION") or None)
    vae = os.environ.get("ATELIER_VAE")
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    server = TritonServer(Home.find(), folder, settings, vae=resolve_vae(vae) if vae else None)
    server.start(wait=False)
    try:
        while not told.wait(0.2):
            if (why := server.failure()) is not None:
                raise AtelierError(why)
    finally:
        server.stop()


def main() -> int:
    """The exit code."""
    try:
        serve()
    except AtelierError as error:
        print(f"services.triton: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
