"""Publish the routes of this gateway, so that a promotion can wait for them."""

from __future__ import annotations

import logging
import time

from atelier.contract.gateway import Gateway, Routed
from atelier.contract.shards import Shards
from atelier.stores.environment import Reports

logger = logging.getLogger(__name__)

HEARTBEAT = 1.0  # seconds between two reports without a change


class Reporter:
    """Write the report of one gateway when it changes, and every HEARTBEAT seconds."""

    def __init__(self, reports: Reports[Gateway], name: str) -> None:
        self._reports = reports
        self._name = name
        self._published: Gateway | None = None
        self._trouble = ""

    def publish(self, routes: Shards[Routed]) -> None:
        """Write the report if it is due. A failure is logged once; it does not affect routing."""
        last, now = self._published, time.time()
        if last and last.routes == routes and now - last.heartbeat < HEARTBEAT:
            return
        report = Gateway(gateway=self._name, heartbeat=now, routes=routes)
        try:
            self._reports.put(report)
        except OSError as error:
            if str(error) != self._trouble:
                logger.warning("report of gateway %s: cannot be written: %s", self._name, error)
            self._trouble = str(error)
        else:
            self._published, self._trouble = report, ""

    def close(self) -> None:
        """Remove the report, so that no promotion waits for a gateway that has ended."""
        if self._published:
            self._reports.remove(self._name)
