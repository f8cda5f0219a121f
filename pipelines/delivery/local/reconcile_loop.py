"""Complete unfinished promotions. `atelier serve` runs this beside its other processes.

python -m pipelines.delivery.local.reconcile_loop

If a version was promoted while no replica ran, the loop verifies it once it serves, and then moves
the alias. The same applies if MLflow was unavailable, or if the promotion was killed.
"""

import logging
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from atelier.contract.gateway import Gateway
from atelier.contract.replica import Replica
from atelier.errors import AtelierError
from atelier.failures import run_process
from atelier.home import Home, HomeSettings
from atelier.logs import log_to
from atelier.stores.environment import Released, local
from atelier.stores.registry import Registry
from pipelines.delivery.local.journal import PromotionJournal
from pipelines.delivery.local.reconciler import reconcile
from pipelines.delivery.smoke import Smoke, local_smoke

logger = logging.getLogger("atelier.reconciler")

LOOK: Final = 0.5  # seconds between two checks for changes
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before a pending promotion is retried


@dataclass
class ReconcileLoop:
    """Reconciles the adapters whose inputs have changed, and those that are not finished.

    While an adapter is pending, it is reconciled again after growing delays. SIGTERM may end the
    loop at any point; the next reconciliation continues.
    """

    home: Home
    _registry: Registry | None = None
    _inputs: "_Inputs | None" = None  # of the last reconciliation
    _wait: float = FIRST_WAIT
    _retry_at: float = float("inf")
    _open: dict[str, str] = field(default_factory=dict)  # the state, by adapter, if not finished
    _logged: dict[str, str] = field(default_factory=dict)  # the last message, by adapter

    def __post_init__(self) -> None:
        self._here = local(self.home)  # caches the files that it has read

    def check(self) -> None:
        """Reconcile if an input changed or a retry is due; MLflow is called only then."""
        smoke = local_smoke(self.home)
        if smoke is None:  # the replica is still starting, or is stopping
            return
        inputs, now = self._read_inputs(), time.monotonic()
        changed = inputs.changed(self._inputs) if self._inputs else inputs.names()
        if not changed and now < self._retry_at:
            return
        self._inputs = inputs
        self._wait = FIRST_WAIT if changed else min(2 * self._wait, LONGEST_WAIT)
        self._retry_at = now + self._wait
        self._reconcile({*changed, *self._open}, smoke)
        if "pending" not in self._open.values():
            self._retry_at = float("inf")

    def _reconcile(self, names: Collection[str], smoke: Smoke) -> None:
        try:
            self._registry = self._registry or Registry(self.home.tracking_uri)
        except AtelierError as error:
            self._log("", f"{error}; trying again later")
        for status in reconcile(
            self.home, self._registry, smoke=smoke, names=names, here=self._here
        ):
            self._log(status.adapter, f"{status.state}: {status.message}")
            if status.state in ("serving", "retired"):
                self._open.pop(status.adapter, None)
            else:
                self._open[status.adapter] = status.state

    def _log(self, adapter: str, message: str) -> None:
        """Log a message only if it differs from the adapter's last one."""
        if self._logged.get(adapter) != message:
            logger.info("%s", message)
        self._logged[adapter] = message

    def _read_inputs(self) -> "_Inputs":
        journal = PromotionJournal(self.home).path
        return _Inputs(
            released=self._here.releases.read(),
            journal={file.stem: _modified(file) for file in journal.glob("[!.]*.json")},
            replicas=self._here.replicas.live(),
            gateways=self._here.gateways.live(),
        )


@dataclass(frozen=True)
class _Inputs:
    """The inputs of a reconciliation except the registry. An unchanged input is the same object."""

    released: Released
    journal: Mapping[str, int]  # the modification time of each adapter's entry
    replicas: Sequence[Replica]
    gateways: Sequence[Gateway]

    def names(self) -> set[str]:
        """Return every adapter that has a release or a journal entry."""
        return {*self.released.releases, *self.released.unreadable, *self.journal}

    def changed(self, since: "_Inputs") -> set[str]:
        """Return the adapters whose inputs have changed; all if a process started or ended."""
        if self._processes() != since._processes():
            return self.names() | since.names()
        names: set[str] = set()
        for now, before in (
            (self.released.releases, since.released.releases),
            (self.released.unreadable, since.released.unreadable),
            (self.journal, since.journal),
        ):
            if now is not before:
                names |= _differing(now, before)
        for replica, last in zip(self.replicas, since.replicas, strict=True):
            names |= replica.adapters.changed(last.adapters)
        for gateway, other in zip(self.gateways, since.gateways, strict=True):
            names |= gateway.routes.changed(other.routes)
        return names

    def _processes(self) -> list[tuple[str, str | None]]:
        replicas = [(replica.replica, replica.base) for replica in self.replicas]
        return [*replicas, *((gateway.gateway, None) for gateway in self.gateways)]


def _differing(now: Mapping[str, object], before: Mapping[str, object]) -> set[str]:
    """Return the names whose values differ, or that only one mapping has."""
    return {name for name in {*now, *before} if now.get(name) != before.get(name)}


def _modified(file: Path) -> int:
    """Return the modification time in nanoseconds since the epoch; 0 if the file is gone."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def run() -> None:
    """Reconcile until SIGTERM. Raises BadInput if a setting is unknown or invalid."""
    loop = ReconcileLoop(Home(HomeSettings.read().home))
    log_to(sys.stderr, format="%(asctime)s %(message)s")
    while True:
        try:
            loop.check()
        except Exception:  # the loop must go on; the log has the traceback
            logger.exception("reconciliation failed; trying again later")
        time.sleep(LOOK)


def main() -> int:
    """Run the loop and return the exit code."""
    return run_process(run)


if __name__ == "__main__":
    sys.exit(main())
