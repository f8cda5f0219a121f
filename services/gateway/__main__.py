"""`python -m services.gateway`: settings from the environment, one uvicorn server, a calm end.

SIGTERM or Ctrl-C: no new connection is taken, running requests are finished within
ATELIER_GATEWAY_SHUTDOWN_TIMEOUT seconds, then the process exits with 0.
"""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType

import uvicorn

from atelier.errors import AtelierError
from services.gateway.app import create_app
from services.gateway.database import Database
from services.gateway.settings import Settings

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def main() -> int:
    """Serve until told to stop; the exit code."""
    try:
        settings = Settings.from_environment()
        logging.basicConfig(level=settings.log_level.upper(), format=FORMAT, stream=sys.stderr)
        check_database(settings)
    except AtelierError as error:
        print(f"atelier gateway: {error}", file=sys.stderr)
        return error.exit_code
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,  # ours, above
        access_log=False,  # the middleware writes one line a request, with its id
        timeout_graceful_shutdown=round(settings.shutdown_timeout),
        server_header=False,
    )
    server = uvicorn.Server(config)
    end_calmly(server)
    server.run()
    return 0 if server.started else 3


def end_calmly(server: uvicorn.Server) -> None:
    """Make an asked-for end an exit with 0: uvicorn raises its signal once more when it is done."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def check_database(settings: Settings) -> None:
    """Open it once before the server starts, so that a wrong address is one clear line."""
    database = Database(settings.database_url)
    try:
        database.prepare()
    finally:
        database.close()


if __name__ == "__main__":
    sys.exit(main())
