"""Completes unfinished promotions. `atelier serve` runs it beside its other processes.

A version that was promoted while nothing ran is verified once it serves, and then its alias moves.
The same applies to an alias that had to wait for MLflow, and to a promotion that was killed.
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
from atelier.logs import log_to
from commands.adapter_references import open_registry
from commands.serve.smoke import smoke_check
from pipelines.delivery.local.journal import PromotionJournal

if TYPE_CHECKING:
    from atelier.stores.registry import Registry

logger = logging.getLogger("atelier.settling")

LOOK: Final = 0.5  # seconds between two checks for changes
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before a pending promotion is retried


@dataclass
class ReconcileLoop:
    """Reconciles after every change, and retries pending promotions after growing delays.

    SIGTERM may end it at any point. The next reconciliation continues its work.
    """

    home: Home
    _registry: "Registry | None" = None
    _seen: "_State | None" = None
    _waits: float = FIRST_WAIT
    _again: float = float("inf")
    _said: dict[str, str] = field(default_factory=dict)

    def look(self) -> None:
        """Check once. Calls MLflow only if something changed or is pending."""
        if smoke_check(self.home) is None:  # the replica is still starting, or is stopping
            return
        seen, now = _state(self.home), time.monotonic()
        if seen == self._seen and now < self._again:
            return
        self._waits = FIRST_WAIT if seen != self._seen else min(2 * self._waits, LONGEST_WAIT)
        self._seen, self._again = seen, now + self._waits
        if not (seen.files and self._settle()):
            self._again = float("inf")

    def _settle(self) -> bool:
        """Reconcile once; True if any promotion is still pending."""
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
        """Log a message once, not at every check."""
        if self._said.get(adapter) != text:
            logger.info("%s", text)
        self._said[adapter] = text


@dataclass(frozen=True)
class _State:
    """The inputs of a reconciliation, except the registry. Equal while nothing has changed."""

    files: Sequence[
        tuple[str, int]
    ]  # files of releases and journals, with their modification times
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
    """Modification time in nanoseconds since the epoch; 0 if the file has just disappeared."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def main() -> int:
    """Run until SIGTERM."""
    log_to(sys.stderr, format="%(asctime)s %(message)s")
    settling = ReconcileLoop(Home.find())
    while True:
        try:
            settling.look()
        except Exception:  # serving must not depend on it; the log has the reason
            logger.exception("reconciliation failed; trying again later")
        time.sleep(LOOK)


if __name__ == "__main__":
    sys.exit(main())
