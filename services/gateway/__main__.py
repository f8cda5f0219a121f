"""`python -m services.gateway`: settings from the environment, uvicorn, a calm end.

Options say the same as the environment's variables, and come first.

SIGTERM or Ctrl-C: no new connection is taken, running requests are finished within
ATELIER_GATEWAY_SHUTDOWN_TIMEOUT seconds, then the process exits with 0.

A database that is away ends it with exit code 3; in a pod it waits for it instead.
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
from services.gateway.settings import PREFIX, Settings
from services.gateway.workers import end_with_parent, run_workers

logger = logging.getLogger(__name__)

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    os.environ.update(chosen(argv))  # for the workers, too
    return run_process(serve)


def serve() -> int:
    """Serve until a signal; the exit code. Raises BadInput for settings that cannot be used."""
    settings = Settings.read()
    log_to_stderr(settings)
    check_database(settings)
    config = uvicorn.Config(
        "services.gateway.__main__:worker_app",
        factory=True,
        loop="asyncio",  # whatever else happens to be installed
        http="h11",
        workers=settings.workers,
        log_config=None,  # ours
        access_log=False,  # the middleware writes one line a request, with its id
        timeout_graceful_shutdown=round(settings.shutdown_timeout),
        server_header=False,
    )
    try:
        listening = listen(settings.host, settings.port)
    except OSError as error:
        place = host_port(settings.host, settings.port)
        raise Unavailable(f"{place} cannot be used: {error.strerror}") from error
    with listening:
        if settings.workers > 1:
            return run_workers(config, listening)
        server = uvicorn.Server(config)
        end_calmly(server)
        server.run([listening])
        return ExitCode.DONE if server.started else ExitCode.UNAVAILABLE


def chosen(argv: Sequence[str] | None) -> dict[str, str]:
    """The options given, as environment variables."""
    parser = argparse.ArgumentParser(prog="python -m services.gateway", description=__doc__)
    parser.add_argument("--kubernetes", action="store_true", help="in a pod, by its environment")
    parser.add_argument("--host")
    parser.add_argument("--port")
    parser.add_argument("--traffic", metavar="FILE", help='canary pools, as JSON: {"next": 20}')
    options = parser.parse_args(argv)
    given = {name: value for name, value in vars(options).items() if value}
    return {PREFIX + name.upper(): "1" if value is True else value for name, value in given.items()}


def worker_app() -> FastAPI:
    """The application of this process, be it the only one or one of several."""
    settings = Settings.read()
    log_to_stderr(settings)
    end_with_parent()
    return_freed_memory()
    return create_app(settings)


def log_to_stderr(settings: Settings) -> None:
    """One format for our lines and uvicorn's."""
    log_to(sys.stderr, format=FORMAT, level=settings.log_level.upper())


def end_calmly(server: uvicorn.Server) -> None:
    """Make an asked-for end an exit with 0: uvicorn raises its signal once more when it is done."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def check_database(settings: Settings) -> None:
    """Open it once before the server starts, so that a wrong address is one clear line.

    A pod waits while it is away: Kubernetes would start it again later and later, and its startup
    probe already says for how long.
    """
    # uvicorn does not listen for it yet, and by default it does not end a container's process 1
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(0))
    database = Database(settings.database_url)
    try:
        seconds = math.inf if settings.kubernetes else 0.0
        patiently(database.prepare, seconds=seconds, told=logger.warning)
    finally:
        database.close()


if __name__ == "__main__":
    sys.exit(main())
