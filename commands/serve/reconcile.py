"""Finishes what promotions left open: a process that `atelier serve` keeps beside the others.

A version promoted while nothing ran is verified once it serves, and only then its alias moves. The
same for an alias that had to wait for MLflow, and for a promotion whose command was killed.
"""

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from atelier.contract.gateway import GatewayFolder
from atelier.contract.replica import ReplicaFolder
from atelier.errors import AtelierError
from atelier.home import Home
from commands.adapter_references import open_registry
from commands.serve.smoke import smoke_check
from pipelines.delivery.local.journal import PromotionJournal

if TYPE_CHECKING:
    from atelier.stores.registry import Registry

logger = logging.getLogger("atelier.settling")

LOOK: Final = 0.5  # seconds between two looks at what has changed
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds until what is pending is tried again


@dataclass
class ReconcileLoop:
    """Settles whatever changed, and again, later and later, what is still pending.

    SIGTERM ends it anywhere: settling is safe to cut off, and whoever comes next goes on with it.
    """

    home: Home
    _registry: "Registry | None" = None
    _seen: "_State | None" = None
    _waits: float = FIRST_WAIT
    _again: float = float("inf")
    _said: dict[str, str] = field(default_factory=dict)

    def look(self) -> None:
        """One look; asks MLflow only where something changed or is pending."""
        if smoke_check(self.home) is None:  # not all is up yet, or on its way down
            return
        seen, now = _state(self.home), time.monotonic()
        if seen == self._seen and now < self._again:
            return
        self._waits = FIRST_WAIT if seen != self._seen else min(2 * self._waits, LONGEST_WAIT)
        self._seen, self._again = seen, now + self._waits
        if not (seen.files and self._settle()):
            self._again = float("inf")

    def _settle(self) -> bool:
        """Whether anything is still pending."""
        from pipelines.delivery.local.reconciler import reconcile

        try:
            self._registry = self._registry or open_registry(self.home)
        except AtelierError as error:
            self._say("", f"{error}; trying again later")
        standings = reconcile(self.home, self._registry, smoke=smoke_check(self.home))
        for one in standings:
            self._say(one.adapter, f"{one.state}: {one.message}")
        return any(one.state == "pending" for one in standings)

    def _say(self, adapter: str, text: str) -> None:
        """Each thing once, not at every look."""
        if self._said.get(adapter) != text:
            logger.info("%s", text)
        self._said[adapter] = text


@dataclass(frozen=True)
class _State:
    """What settling looks at, but for the registry: equal as long as nothing has changed."""

    files: Sequence[tuple[str, int]]  # of releases and intents, and when they were written
    replicas: Sequence[object]
    gateways: Sequence[object]


def _state(home: Home) -> _State:
    folders = (home.releases, PromotionJournal(home).path)
    files = [file for folder in folders for file in folder.glob("[!.]*.json")]
    return _State(
        files=sorted((str(file), _written(file)) for file in files),
        replicas=[
            (one.replica, one.base, one.adapters) for one in ReplicaFolder(home.replicas).live()
        ],
        gateways=[(one.gateway, one.routes) for one in GatewayFolder(home.gateways).live()],
    )


def _written(file: Path) -> int:
    """In nanoseconds since the epoch; 0 where it has just gone."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def main() -> int:
    """Until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    settling = ReconcileLoop(Home.find())
    while True:
        try:
            settling.look()
        except Exception:  # what serves must not depend on it; the log says why
            logger.exception("settling failed; trying again later")
        time.sleep(LOOK)


if __name__ == "__main__":
    sys.exit(main())
