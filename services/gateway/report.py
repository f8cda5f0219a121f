"""Tells in the home where this gateway sends calls, so that a promotion can wait for it."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

from atelier.gateways import Gateway, GatewayFolder, Routed

logger = logging.getLogger(__name__)

HEARTBEAT = 1.0  # seconds


class Reporter:
    """Writes one gateway's report when it changes, and as a heartbeat."""

    def __init__(self, folder: GatewayFolder) -> None:
        self._folder = folder
        # Containers that share a volume have hosts of their own, and the same process id.
        self._name = f"{socket.gethostname()}-{os.getpid()}"
        self._told: Gateway | None = None
        self._trouble = ""

    def tell(self, routes: Mapping[str, Routed]) -> None:
        """Routing goes on where the report cannot be written; the log says so once."""
        told, now = self._told, time.time()
        if told and told.routes == routes and now - told.heartbeat < HEARTBEAT:
            return
        report = Gateway(gateway=self._name, heartbeat=now, routes=routes)
        try:
            if told is None:
                self._forget_the_dead()
            self._folder.put(report)
        except OSError as error:
            if str(error) != self._trouble:
                logger.warning("where calls go cannot be told: %s", error)
            self._trouble = str(error)
        else:
            self._told, self._trouble = report, ""

    def close(self) -> None:
        """Say no more: nothing is to wait for a gateway that has ended."""
        if self._told:
            self._folder.remove(self._name)

    def _forget_the_dead(self) -> None:
        """A gateway that was killed could not remove its own report."""
        for one in self._folder.list().values():
            if not one.live():
                self._folder.remove(one.gateway)
