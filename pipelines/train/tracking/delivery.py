"""Carries a journal to its sinks from a thread of its own, and remembers how far each one is."""

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from atelier.errors import AtelierError, Unavailable
from atelier.files import write_atomic
from pipelines.train.tracking.journal import Journal
from pipelines.train.tracking.sinks import Sink

PAUSE = 2.0  # seconds between rounds: curves need not be fresher, and MLflow's work is not free
SLOWNESS = 120.0  # seconds that a place beyond this machine may take over one round
LOCAL = 1200.0  # seconds for one that is on this machine
AGAIN = 5.0  # seconds before a sink that was away is asked again


class Delivery:
    """Tells sinks what is in the journal; a sink that is away is asked again later."""

    def __init__(self, journal: Journal, sinks: Sequence[Sink], state: Path) -> None:
        self.journal, self.sinks, self._state = journal, list(sinks), state
        self._delivered = read_state(state)
        self._away: dict[str, AtelierError] = {}
        self._not_before: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def start(self) -> None:
        """Begins to deliver in the background."""
        self._thread.start()

    def finish(self, *, patience: float = 10.0, slowness: float | None = None) -> None:
        """Delivers the rest; Unavailable, with what to do then, where that cannot be done.

        A place that is away is asked again for `patience` seconds. A call in progress gets
        `slowness` seconds; where that is not given, many minutes if every place is local (making
        a new database takes a slow machine long, and nobody there can be away).
        """
        if slowness is None:
            slowness = LOCAL if all(sink.local for sink in self.sinks) else SLOWNESS
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(slowness)
        if self._thread.is_alive():  # in the middle of a call; it dies with the process
            self._away.setdefault("tracking", Unavailable(f"no answer in {slowness:g} s"))
        else:
            again = Retrying(
                retry=retry_if_result(lambda is_all_told: not is_all_told),
                wait=wait_fixed(min(0.5, patience / 4)),
                stop=stop_after_delay(patience),
                retry_error_callback=lambda _: False,  # `_away` has the reasons
            )
            again(self._round, at_once=True)
            for sink in self.sinks:
                sink.close()
        if self._away:
            reasons = "; ".join(f"{name}: {error}" for name, error in sorted(self._away.items()))
            raise Unavailable(
                f"{self.journal.path}: not all of it could be delivered ({reasons}). Nothing is "
                f"lost: `atelier train --deliver {self.journal.path.parent}` sends the rest",
                retry_after=60,
            )

    def _work(self) -> None:
        while not self._stop.wait(PAUSE):
            self._round()

    def _round(self, *, at_once: bool = False) -> bool:
        """One attempt at every sink; whether all is told everywhere."""
        now = time.monotonic()
        for sink in self.sinks:
            if now < self._not_before.get(sink.name, 0.0) and not at_once:
                continue
            try:
                self._deliver(sink)
                self._away.pop(sink.name, None)
            except AtelierError as error:
                self._away[sink.name] = error
                self._not_before[sink.name] = now + AGAIN
        self._link()
        return not self._away

    def _deliver(self, sink: Sink) -> None:
        about = self._delivered.setdefault(sink.name, {"count": 0})
        events = self.journal.since(about["count"])
        if not events:
            return
        if "identity" not in about:  # remembered first: a second run must never be begun
            about["identity"] = sink.identity()
            self._write()
        sink.send(events)
        about["count"] = events[-1].number + 1
        self._write()

    def _link(self) -> None:
        """Tells each sink how the run is called in the others, once all are known."""
        known = {
            n: about["identity"] for n, about in self._delivered.items() if "identity" in about
        }
        if len(self.sinks) < 2 or any(sink.name not in known for sink in self.sinks):
            return
        for sink in self.sinks:
            if "linked" in self._delivered[sink.name] or sink.name in self._away:
                continue
            others = [tags for name, tags in known.items() if name != sink.name]
            try:
                sink.link({key: value for tags in others for key, value in tags.items()})
                self._delivered[sink.name]["linked"] = True
                self._write()
            except AtelierError as error:
                self._away[sink.name] = error

    def _write(self) -> None:
        write_atomic(self._state, json.dumps(self._delivered, indent=2))


def read_state(path: Path) -> dict[str, dict[str, Any]]:
    """By sink: how many events it was told, and how the run is called there."""
    if not path.exists():
        return {}
    state: dict[str, dict[str, Any]] = json.loads(path.read_text())
    return state
