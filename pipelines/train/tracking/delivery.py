"""Delivers a journal to its sinks in a background thread, and records the progress of each sink."""

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

PAUSE = 2.0  # seconds between rounds; a shorter pause would load MLflow without a benefit
SLOWNESS = 120.0  # seconds that one round may take if a sink is on another machine
LOCAL = 1200.0  # seconds that one round may take if all sinks are on this machine
AGAIN = 5.0  # seconds before a failed sink is tried again


class Delivery:
    """Sends the events of a journal to sinks, and retries those that are unavailable.

    The progress of each sink is recorded in the file `state`.
    """

    def __init__(self, journal: Journal, sinks: Sequence[Sink], state: Path) -> None:
        self.journal, self.sinks, self._state = journal, list(sinks), state
        self._delivered = read_state(state)
        self._failed: dict[str, AtelierError] = {}  # by sink
        self._not_before: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def start(self) -> None:
        """Start to deliver in the background."""
        self._thread.start()

    def finish(self, *, patience: float = 10.0, slowness: float | None = None) -> None:
        """Deliver the remaining events. Raises Unavailable if some cannot be delivered.

        An unavailable sink is retried for `patience` seconds. A call in progress may take
        `slowness` seconds more. The default is LOCAL if every sink is local, otherwise SLOWNESS. A
        local sink cannot be unreachable, but creating its database takes minutes on a slow machine.
        """
        if slowness is None:
            slowness = LOCAL if all(sink.local for sink in self.sinks) else SLOWNESS
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(slowness)
        if self._thread.is_alive():  # in a call; the daemon thread ends with the process
            self._failed.setdefault("tracking", Unavailable(f"no answer in {slowness:g} s"))
        else:
            retrying = Retrying(
                retry=retry_if_result(lambda is_complete: not is_complete),
                wait=wait_fixed(min(0.5, patience / 4)),
                stop=stop_after_delay(patience),
                retry_error_callback=lambda _: False,  # the errors are in `_failed`
            )
            retrying(self._round, at_once=True)
            for sink in self.sinks:
                sink.close()
        if self._failed:
            reasons = "; ".join(f"{name}: {error}" for name, error in sorted(self._failed.items()))
            raise Unavailable(
                f"{self.journal.path}: some events were not delivered ({reasons}). No event is "
                f"lost; send the rest with `atelier train --deliver {self.journal.path.parent}`",
                retry_after=60,
            )

    def _work(self) -> None:
        while not self._stop.wait(PAUSE):
            self._round()

    def _round(self, *, at_once: bool = False) -> bool:
        """Try every sink once; return whether all sinks have all events."""
        now = time.monotonic()
        for sink in self.sinks:
            if now < self._not_before.get(sink.name, 0.0) and not at_once:
                continue
            try:
                self._deliver(sink)
                self._failed.pop(sink.name, None)
            except AtelierError as error:
                self._failed[sink.name] = error
                self._not_before[sink.name] = now + AGAIN
        self._link()
        return not self._failed

    def _deliver(self, sink: Sink) -> None:
        state = self._delivered.setdefault(sink.name, {"count": 0})
        events = self.journal.since(state["count"])
        if not events:
            return
        if "identity" not in state:  # written before the events, so that no second run is started
            state["identity"] = sink.identity()
            self._write()
        sink.send(events)
        state["count"] = events[-1].number + 1
        self._write()

    def _link(self) -> None:
        """Record in each sink the identities of the run in the other sinks, once all have one."""
        identities = {
            name: state["identity"]
            for name, state in self._delivered.items()
            if "identity" in state
        }
        if len(self.sinks) < 2 or any(sink.name not in identities for sink in self.sinks):
            return
        for sink in self.sinks:
            if "linked" in self._delivered[sink.name] or sink.name in self._failed:
                continue
            others = [tags for name, tags in identities.items() if name != sink.name]
            try:
                sink.link({key: value for tags in others for key, value in tags.items()})
                self._delivered[sink.name]["linked"] = True
                self._write()
            except AtelierError as error:
                self._failed[sink.name] = error

    def _write(self) -> None:
        write_atomic(self._state, json.dumps(self._delivered, indent=2))


def read_state(path: Path) -> dict[str, dict[str, Any]]:
    """Return, by sink, the number of delivered events and the identity of the run.

    Return an empty dictionary if the file does not exist.
    """
    if not path.exists():
        return {}
    state: dict[str, dict[str, Any]] = json.loads(path.read_text())
    return state
