"""Keeps a replica's volume as its releases say, and tells what the replica holds.

Nothing here decides: `plan` does. Whatever is away or broken, the replica goes on with the last
good state, and its report says why.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from atelier.errors import AtelierError
from atelier.replica import Replica, ReplicaFolder
from services.agent.fetching import Fetching
from services.agent.packages import PackageShelf
from services.agent.plan import PACKAGES, Named, Plan, plan, report
from services.agent.releases import Released, ReleaseSource
from services.agent.wanted import Wanted

logger = logging.getLogger(__name__)

Fetch = Callable[[str, int, Path], object]  # adapter, version, folder to make


class Agent:
    """One replica's agent. `sync` is one round and never waits for the network."""

    def __init__(
        self,
        *,
        replica: str,
        volume: Path,
        releases: ReleaseSource,
        reports: ReplicaFolder,
        fetch: Fetch,
    ):
        self._replica = replica
        self._volume = volume
        self._releases = releases
        self._reports = reports
        self._shelf = PackageShelf(volume / PACKAGES)
        self._shelf.sweep()
        self._fetch = fetch
        self._fetching = Fetching(self._bring)
        self._known: Released | None = None  # what could be read last
        self._damaged: dict[str, str] = {}  # by digest, until it is whole again
        self._reported: Replica | None = None
        self._said: frozenset[str] = frozenset()

    def sync(self) -> Plan:
        """One round: look, decide, ask the engine, fetch, prune, report."""
        troubles = self._read_releases()
        loaded = self._read_loaded()
        self._fetching.collect()
        good, bad = self._shelf.scan()
        self._damaged = {d: why for d, why in (self._damaged | bad).items() if d not in good}
        asked = Wanted.read(self._volume / "wanted.json")
        made = plan(
            self._known.releases if self._known else {},
            on_volume=good,
            asked=asked,
            loaded=loaded if self._known else None,
            unreadable=self._known.unreadable if self._known else (),
        )
        if made.wanted != asked.adapters:
            generation = asked.generation + 1
            Wanted(adapters=made.wanted, generation=generation).write(self._volume / "wanted.json")
        self._fetching.want(made.fetch)
        for digest in made.prune:
            self._shelf.remove(digest)
        if loaded is not None:
            self._tell(loaded, made, troubles)
        return made

    def close(self) -> None:
        """End; the report goes stale by itself, as the engine's heartbeat is in it."""
        self._fetching.close()

    def _bring(self, one: Named) -> None:
        """Fetch a package and put it on the shelf (in a thread of its own)."""
        self._shelf.put(one.digest, lambda folder: self._fetch(one.name, one.version, folder))

    def _read_releases(self) -> list[str]:
        """Refresh what is released; where that fails the last known state stays."""
        try:
            self._known = self._releases.read()
        except (AtelierError, OSError) as error:
            return [f"releases cannot be read, going on with the last ones: {error}"]
        return list(self._known.unreadable.values())

    def _read_loaded(self) -> Replica | None:
        """The engine's last words; None before its first."""
        try:
            return Replica.model_validate_json((self._volume / "loaded.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def _tell(self, loaded: Replica, made: Plan, troubles: list[str]) -> None:
        problems = self._damaged | self._fetching.problems
        told = report(loaded, made, problems=problems, troubles=troubles)
        told = told.model_copy(update={"replica": self._replica})
        if told != self._reported:
            self._reports.put(told)
            self._reported = told
        sentences = frozenset([*problems.values(), *troubles, *made.ignored])
        for sentence in sorted(sentences - self._said):  # each once, not four times a second
            logger.warning("%s", sentence)
        self._said = sentences
