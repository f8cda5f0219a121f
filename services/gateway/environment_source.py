"""Where this gateway learns what is released and who serves: a home, or a cluster's namespace."""

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
from services.gateway.settings import Settings

logger = logging.getLogger(__name__)


def environment_source(settings: Settings) -> Environment:
    """The environment that the settings name."""
    home = Home(settings.home)
    if settings.kubernetes:
        pod = Pod.find()
        found = watching(Api.connect(pod.namespace), pod, home.root / "cluster")
    else:
        found = local(home)
    return replace(found, shares=shares_of(settings.traffic)) if settings.traffic else found


def reporter_name(settings: Settings) -> str:
    """What this process is called in its report; its process id where it is one of several.

    Containers that share a volume have hosts of their own, and the same process id.
    """
    if settings.kubernetes:
        name = Pod.find().name
        return name if settings.workers == 1 else f"{name}-{os.getpid()}"
    return f"{socket.gethostname()}-{os.getpid()}"


def shares_of(file: Path) -> Shares:
    """Percent by pool from a JSON file, `{"next": 20}`; what cannot be read leaves the last."""
    last: dict[str, int] = {}
    said = ""

    def read() -> Mapping[str, int]:
        nonlocal last, said
        try:
            found = json.loads(file.read_bytes())
            if not isinstance(found, dict) or not _are_shares(found):
                raise ValueError("not pools with percent that add up to at most 100")
            last, said = found, ""
        except FileNotFoundError:
            last, said = {}, ""
        except (OSError, ValueError) as error:
            if said != str(error):
                logger.warning("%s: %s; the last shares stay", file, error)
            said = str(error)
        return last

    return read


def _are_shares(found: Mapping[str, object]) -> bool:
    percents = [one for one in found.values() if isinstance(one, int) and 0 <= one <= 100]
    return len(percents) == len(found) and sum(percents) <= 100
