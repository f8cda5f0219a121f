"""Move the alias of an environment: `python -m pipelines.delivery.cluster.hook NAME`.

charts/adapter runs the hook after `helm install`, `helm upgrade` and `helm rollback`.

1. The hook waits until every replica and gateway serves the release.
2. It runs the smoke test of the version and of its canary, with the key ATELIER_KEY. The generated
   images must match the evaluated ones within ATELIER_SMOKE_TOLERANCE. Without a key, the hook
   fails, unless ATELIER_SMOKE_REQUIRED is `false`.
3. It moves the alias.

`--all` does the same for every adapter without waiting, and removes the aliases of adapters that
are no longer released.

Exit codes: 0 success, or only MLflow is unavailable; 1 the version does not serve, or release and
registry disagree; 2 bad input; 3 the API server or the gateway is unavailable; 143 stopped by
SIGTERM.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence

from atelier.data.release import Pin, Release
from atelier.errors import BadInput, Interrupted, Refused
from atelier.failures import run_process
from atelier.home import Home
from atelier.logs import log_to
from atelier.platform import Api, LeaseLock, listing
from atelier.stores.registry import Registry
from pipelines.delivery.cluster.follow import AliasFollower
from pipelines.delivery.cluster.hook_settings import HookSettings
from pipelines.delivery.smoke import Smoke, gateway_smoke
from pipelines.evaluate.attestations import JudgedImage

logger = logging.getLogger("pipelines.delivery.cluster.hook")

WAIT = 300.0  # seconds until replicas have loaded a package and gateways route to it


def run(options: argparse.Namespace) -> None:
    """Follow one release, or all of them. Raises Refused if one failed."""
    settings = HookSettings.read()
    environment = _required(options.environment or settings.environment, "ENVIRONMENT")
    gateway = _required(options.gateway or settings.gateway, "GATEWAY")
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise BadInput("MLFLOW_TRACKING_URI is not set; set it to the address of MLflow")
    api = Api.connect()
    holder = os.environ.get("HOSTNAME") or socket.gethostname()
    tracking_uri = Home(settings.home).tracking_uri
    follower = AliasFollower(
        listing(api),
        lambda: Registry(tracking_uri),
        lambda name: LeaseLock(api, f"atelier-alias-{name}", f"{holder}-{os.getpid()}"),
        alias=environment,
        smoke=_smoke(gateway, settings),
    )
    if options.all:
        results = follower.follow_all()
    else:
        results = [follower.follow(options.name, wait=options.wait)]
    for result in results:
        logger.log(logging.ERROR if result.failed else logging.INFO, "%s", result.text)
    if failed := [result.text for result in results if result.failed]:
        raise Refused("; ".join(failed))


def _required(value: str | None, name: str) -> str:
    if not value:
        raise BadInput(f"ATELIER_{name} is not set; set it, or use --{name.lower()}")
    return value


def _smoke(gateway: str, settings: HookSettings) -> Smoke | None:
    """Return the smoke test, None if there is no key and the environment allows that."""
    if settings.key:
        return gateway_smoke(gateway, settings.key, settings.smoke_tolerance)
    return _no_key if settings.smoke_required else None


def _no_key(release: Release, pin: Pin, _: Sequence[JudgedImage]) -> str:
    raise BadInput(
        f"smoke image of {release.adapter}@{pin.version}: ATELIER_KEY is not set; store a key of "
        "the gateway in the Secret that the platform's smoke.secret names, or set "
        "smoke.required=false to release without a smoke test"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the hook and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.delivery.cluster.hook", description=__doc__
    )
    parser.add_argument("name", nargs="?", help="the adapter; omit it with --all")
    parser.add_argument("--all", action="store_true", help="process every adapter without waiting")
    parser.add_argument("--environment", help="name of the alias; default: ATELIER_ENVIRONMENT")
    parser.add_argument(
        "--gateway", metavar="URL", help="address of the gateway; default: ATELIER_GATEWAY"
    )
    parser.add_argument(
        "--wait", type=float, default=WAIT, metavar="SECONDS", help="timeout; default: %(default)g"
    )
    options = parser.parse_args(argv)
    if bool(options.name) == options.all:
        parser.error("give either the adapter's name or --all")
    log_to(sys.stdout, format="%(asctime)s %(message)s")
    # Process 1 of a container ignores SIGTERM without a handler, and SIGKILL would leave the lock.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Interrupted.exit_code))
    return run_process(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
