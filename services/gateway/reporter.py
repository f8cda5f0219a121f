"""Tells where this gateway sends calls, so that a promotion can wait for it."""

from __future__ import annotations

import logging
import time

from atelier.contract.gateway import Gateway, Routed
from atelier.contract.shards import Shards
from atelier.stores.environment import Reports

logger = logging.getLogger(__name__)

HEARTBEAT = 1.0  # seconds


class Reporter:
    """Writes one gateway's report when it changes, and as a heartbeat."""

    def __init__(self, reports: Reports[Gateway], name: str) -> None:
        self._reports = reports
        self._name = name
        self._told: Gateway | None = None
        self._trouble = ""

    def tell(self, routes: Shards[Routed]) -> None:
        """Routing goes on where the report cannot be written; the log says so once."""
        told, now = self._told, time.time()
        if told and told.routes == routes and now - told.heartbeat < HEARTBEAT:
            return
        report = Gateway(gateway=self._name, heartbeat=now, routes=routes)
        try:
            self._reports.put(report)
        except OSError as error:
            if str(error) != self._trouble:
                logger.warning("where calls go cannot be told: %s", error)
            self._trouble = str(error)
        else:
            self._told, self._trouble = report, ""

    def close(self) -> None:
        """Say no more: nothing is to wait for a gateway that has ended."""
        if self._told:
            self._reports.remove(self._name)
