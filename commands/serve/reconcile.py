"""Completes unfinished promotions. `atelier serve` runs it beside its other processes.

A version that was promoted while nothing ran is verified once it serves, and then its alias moves.
The same applies to an alias that had to wait for MLflow, and to a promotion that was killed.
"""

import logging
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from atelier.contract.gateway import Gateway
from atelier.contract.replica import Replica
from atelier.errors import AtelierError
from atelier.home import Home
from atelier.logs import log_to
from atelier.stores.environment import Released, local
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
    """Reconciles the adapters of which something has changed, and those that are still pending.

    Pending ones are tried again after growing delays.

    SIGTERM may end it at any point. The next reconciliation continues its work.
    """

    home: Home
    _registry: "Registry | None" = None
    _seen: "_State | None" = None
    _waits: float = FIRST_WAIT
    _again: float = float("inf")
    _standings: dict[str, str] = field(default_factory=dict)  # states by adapter, if not settled
    _said: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._here = local(self.home)  # keeps what it has read

    def look(self) -> None:
        """Check once. Calls MLflow only if something changed or is pending."""
        if smoke_check(self.home) is None:  # the replica is still starting, or is stopping
            return
        seen, now = self._state(), time.monotonic()
        changed = seen.changed(self._seen) if self._seen else seen.names()
        if not changed and now < self._again:
            return
        self._waits = FIRST_WAIT if changed else min(2 * self._waits, LONGEST_WAIT)
        self._seen, self._again = seen, now + self._waits
        self._settle({*changed, *self._standings})
        if "pending" not in self._standings.values():
            self._again = float("inf")

    def _settle(self, names: Collection[str]) -> None:
        from pipelines.delivery.local.reconciler import reconcile

        try:
            self._registry = self._registry or open_registry(self.home)
        except AtelierError as error:
            self._say("", f"{error}; trying again later")
        smoke = smoke_check(self.home)
        standings = reconcile(self.home, self._registry, smoke=smoke, names=names, here=self._here)
        for one in standings:
            self._say(one.adapter, f"{one.state}: {one.message}")
            if one.state in ("serving", "retired"):
                self._standings.pop(one.adapter, None)
            else:
                self._standings[one.adapter] = one.state

    def _say(self, adapter: str, text: str) -> None:
        """Log a message once, not at every check."""
        if self._said.get(adapter) != text:
            logger.info("%s", text)
        self._said[adapter] = text

    def _state(self) -> "_State":
        folder = PromotionJournal(self.home).path
        return _State(
            released=self._here.releases.read(),
            intents={file.stem: _written(file) for file in folder.glob("[!.]*.json")},
            replicas=self._here.replicas.live(),
            gateways=self._here.gateways.live(),
        )


@dataclass(frozen=True)
class _State:
    """The inputs of a reconciliation but the registry. An unchanged input is the same object."""

    released: Released
    intents: Mapping[str, int]  # adapters with something under way, and when that was written
    replicas: Sequence[Replica]
    gateways: Sequence[Gateway]

    def names(self) -> set[str]:
        """Every adapter."""
        return {*self.released.releases, *self.released.unreadable, *self.intents}

    def changed(self, since: "_State") -> set[str]:
        """The adapters of which something has changed; all where a process came or went."""
        if self._processes() != since._processes():
            return self.names() | since.names()
        found: set[str] = set()
        for now, before in (
            (self.released.releases, since.released.releases),
            (self.released.unreadable, since.released.unreadable),
            (self.intents, since.intents),
        ):
            if now is not before:
                found |= _differing(now, before)
        for one, last in zip(self.replicas, since.replicas, strict=True):
            found |= one.adapters.changed(last.adapters)
        for gateway, other in zip(self.gateways, since.gateways, strict=True):
            found |= gateway.routes.changed(other.routes)
        return found

    def _processes(self) -> list[tuple[str, str | None]]:
        replicas = [(one.replica, one.base) for one in self.replicas]
        return [*replicas, *((one.gateway, None) for one in self.gateways)]


def _differing(now: Mapping[str, object], before: Mapping[str, object]) -> set[str]:
    """The names whose values are others, came or went."""
    return {name for name in {*now, *before} if now.get(name) != before.get(name)}


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
