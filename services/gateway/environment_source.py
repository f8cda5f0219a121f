"""Choose the source of releases and reports: a home, or the namespace of a cluster."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from atelier.home import Home
from atelier.platform import Api, Pod, watching
from atelier.stores.environment import Environment, Shares, local
from services.gateway.settings import GatewaySettings

logger = logging.getLogger(__name__)


def environment_source(settings: GatewaySettings) -> Environment:
    """Return the environment that the settings name."""
    home = Home(settings.home)
    if settings.kubernetes:
        pod = Pod.find()
        environment = watching(Api.connect(pod.namespace), pod, home.root / "cluster")
    else:
        environment = local(home)
    if settings.traffic:
        environment = replace(environment, shares=shares_of(settings.traffic))
    return environment


def reporter_name(settings: GatewaySettings) -> str:
    """Return the name of this process in its report: the pod's name, or host name and process id.

    If a pod has several workers, the process id is appended. Containers that share a volume may
    have equal process ids, but they have different host names.
    """
    if settings.kubernetes:
        name = Pod.find().name
        return name if settings.workers == 1 else f"{name}-{os.getpid()}"
    return f"{socket.gethostname()}-{os.getpid()}"


def shares_of(file: Path) -> Shares:
    """Return a function that reads the shares of canary pools, in percent, from a JSON file.

    An example of its content is `{"next": 20}`. A missing file means no shares. If the file is
    invalid, the last shares stay in use.
    """
    shares: dict[str, int] = {}
    logged = ""

    def read() -> Mapping[str, int]:
        nonlocal shares, logged
        try:
            content = json.loads(file.read_bytes())
            if not isinstance(content, dict) or not _are_shares(content):
                raise ValueError(
                    'must be percentages by pool, such as {"next": 20}, at most 100 in total'
                )
            shares, logged = content, ""
        except FileNotFoundError:
            shares, logged = {}, ""
        except (OSError, ValueError) as error:
            if logged != str(error):
                logger.warning("%s: %s; the last shares stay in use", file, error)
            logged = str(error)
        return shares

    return read


def _are_shares(content: Mapping[str, object]) -> bool:
    percents = [value for value in content.values() if isinstance(value, int) and 0 <= value <= 100]
    return len(percents) == len(content) and sum(percents) <= 100
