"""Moves the alias of an environment: `python -m pipelines.delivery.cluster.hook NAME`.

charts/adapter runs it after `helm install`, `helm upgrade` and `helm rollback`. It waits until
every replica and gateway answers by the release. It then has images of the version's verdict, and
of its canary's, drawn again through the gateway with the key ATELIER_KEY. They must match the
judged ones to ATELIER_SMOKE_TOLERANCE. Only then does it move the alias. Without a key it stops
before that, unless ATELIER_SMOKE_REQUIRED is `false`. `--all` does so for every adapter without
waiting, and removes the aliases of adapters that are no longer released (`follow.py`).

Exit codes: 0 done, or only MLflow is away; 1 it does not serve, or release and registry disagree;
2 bad input; 3 the API server or the gateway is away; 143 stopped by SIGTERM.
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

WAIT = 300.0  # seconds for replicas to fetch, verify and load a package, gateways to follow


def run(options: argparse.Namespace) -> None:
    """Do what the command line says; Refused where anything failed."""
    settings = HookSettings.read()
    environment = _given(options.environment or settings.environment, "ENVIRONMENT")
    gateway = _given(options.gateway or settings.gateway, "GATEWAY")
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise BadInput("MLFLOW_TRACKING_URI is not set; give the registry's address")
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
    outcomes = follower.every() if options.all else [follower.one(options.name, wait=options.wait)]
    for one in outcomes:
        logger.log(logging.ERROR if one.failed else logging.INFO, "%s", one.text)
    if failed := [one.text for one in outcomes if one.failed]:
        raise Refused("; ".join(failed))


def _given(value: str | None, name: str) -> str:
    if not value:
        raise BadInput(f"ATELIER_{name} is not set; give it, or --{name.lower()}")
    return value


def _smoke(gateway: str, settings: HookSettings) -> Smoke | None:
    """None only where the environment puts up with no picture at all."""
    if settings.key:
        return gateway_smoke(gateway, settings.key, settings.smoke_tolerance)
    return _no_key if settings.smoke_required else None


def _no_key(release: Release, pin: Pin, _: Sequence[JudgedImage]) -> str:
    raise BadInput(
        f"no picture of {release.adapter}@{pin.version} can be made: ATELIER_KEY is not set; "
        "keep a key of the gateway in the Secret that the platform's smoke.secret names "
        "(smoke.required=false goes without)"
    )


def main(argv: list[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.delivery.cluster.hook", description=__doc__
    )
    parser.add_argument("name", nargs="?", help="the adapter; none with --all")
    parser.add_argument("--all", action="store_true", help="every adapter, waiting for none")
    parser.add_argument("--environment", help="the alias; default: ATELIER_ENVIRONMENT")
    parser.add_argument("--gateway", metavar="URL", help="default: ATELIER_GATEWAY")
    parser.add_argument("--wait", type=float, default=WAIT, metavar="SECONDS")
    options = parser.parse_args(argv)
    if bool(options.name) == options.all:
        parser.error("give either the adapter's name or --all")
    log_to(sys.stdout, format="%(asctime)s %(message)s")
    # the first process of a container ignores SIGTERM unless told, and SIGKILL leaves the lock
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Interrupted.exit_code))
    return run_process(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
