"""Run the gateway: `python -m services.gateway`, with settings from the environment.

An option overrides the environment variable of the same name.

After SIGTERM or Ctrl-C the gateway accepts no new connection, finishes its in-flight requests
within ATELIER_GATEWAY_SHUTDOWN_TIMEOUT seconds, and exits with 0.

If the database is unavailable at the start, the process exits with 3. In a pod, the process waits
for the database instead.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import uvicorn
from fastapi import FastAPI

from atelier.addresses import host_port, listen
from atelier.errors import ExitCode, Unavailable
from atelier.failures import run_process
from atelier.logs import log_to
from atelier.retry import patiently
from services.gateway.app import create_app
from services.gateway.budget import return_freed_memory
from services.gateway.database import Database
from services.gateway.settings import PREFIX, GatewaySettings
from services.gateway.workers import end_with_parent, run_workers

logger = logging.getLogger(__name__)

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    os.environ.update(variables_of(argv))  # the worker processes also read the environment
    return run_process(serve)


def serve() -> int:
    """Serve until a signal arrives, and return the exit code.

    Raises BadInput if a setting is invalid, and Unavailable if the port or the database is
    unavailable.
    """
    settings = GatewaySettings.read()
    log_to_stderr(settings)
    check_database(settings)
    config = uvicorn.Config(
        "services.gateway.__main__:worker_app",
        factory=True,
        loop="asyncio",  # by default uvicorn uses uvloop if it is installed
        http="h11",
        workers=settings.workers,
        log_config=None,  # see log_to_stderr
        access_log=False,  # the middleware logs one line for each request, with its id
        timeout_graceful_shutdown=round(settings.shutdown_timeout),
        server_header=False,
    )
    try:
        listening = listen(settings.host, settings.port)
    except OSError as error:
        place = host_port(settings.host, settings.port)
        raise Unavailable(
            f"{place}: cannot listen: {error.strerror}; use another --host or --port"
        ) from error
    with listening:
        if settings.workers > 1:
            return run_workers(config, listening)
        server = uvicorn.Server(config)
        exit_cleanly(server)
        server.run([listening])
        return ExitCode.DONE if server.started else ExitCode.UNAVAILABLE


def variables_of(argv: Sequence[str] | None) -> dict[str, str]:
    """Return the options of the command line as environment variables."""
    parser = argparse.ArgumentParser(prog="python -m services.gateway", description=__doc__)
    parser.add_argument(
        "--kubernetes",
        action="store_true",
        help="read releases and replicas from the pod's namespace",
    )
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", help="port to listen on; 0 selects a free port")
    parser.add_argument(
        "--traffic",
        metavar="FILE",
        help='JSON file with the shares of canary pools in percent: {"next": 20}',
    )
    options = parser.parse_args(argv)
    return {
        PREFIX + name.upper(): "1" if value is True else value
        for name, value in vars(options).items()
        if value
    }


def worker_app() -> FastAPI:
    """Return the application of this process. uvicorn calls it once in each worker."""
    settings = GatewaySettings.read()
    log_to_stderr(settings)
    end_with_parent()
    return_freed_memory()
    return create_app(settings)


def log_to_stderr(settings: GatewaySettings) -> None:
    """Log to stderr; the gateway and uvicorn share one format."""
    log_to(sys.stderr, format=FORMAT, level=settings.log_level.upper())


def exit_cleanly(server: uvicorn.Server) -> None:
    """Make the process exit with 0 after SIGTERM or SIGINT.

    Without this handler, uvicorn raises the signal again when it has shut down.
    """

    def stop(_signal: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def check_database(settings: GatewaySettings) -> None:
    """Open the database before the server starts, so that a wrong address gives a one-line error.

    In a pod, wait while the database is unavailable: Kubernetes delays each further restart longer,
    and the startup probe already limits the wait. Raises BadInput if the database has the schema of
    another version, and, outside a pod, Unavailable if the database is unavailable.
    """
    # uvicorn does not handle it yet, and by default it does not end process 1 of a container
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(0))
    database = Database(settings.database_url)
    try:
        seconds = math.inf if settings.kubernetes else 0.0
        patiently(database.prepare, seconds=seconds, on_retry=logger.warning)
    finally:
        database.close()


if __name__ == "__main__":
    sys.exit(main())
