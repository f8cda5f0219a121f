"""What happened in a run, line by line in a file, before anybody else is told.

Sinks read it at their own pace, so a server that is away delays nothing and loses nothing.
"""

import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["params", "tags", "metrics", "picture", "package", "end"]


@dataclass(frozen=True)
class Event:
    """One line. `time` is in seconds since the epoch; `data` depends on the kind."""

    number: int
    time: float
    kind: Kind
    data: dict[str, Any]


class Journal:
    """An append-only `log.jsonl`; a line that a killed process left half-written is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._events = _whole_lines(path)
        self._step = max((e.data["step"] for e in self._events if e.kind == "metrics"), default=0)
        self._file = path.open("a", encoding="utf-8")

    def append(self, kind: Kind, **data: Any) -> None:
        """Adds one event."""
        with self._lock:
            event = Event(len(self._events), time.time(), kind, data)
            self._file.write(json.dumps(asdict(event), ensure_ascii=False) + "\n")
            self._file.flush()
            self._events.append(event)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Adds one step's numbers, unless an earlier life of the run told them already."""
        if step > self._step:
            self._step = step
            self.append("metrics", step=step, values=values)

    def since(self, number: int) -> list[Event]:
        """The events from `number` on."""
        with self._lock:
            return self._events[number:]

    def has(self, kind: Kind, **data: Any) -> bool:
        """Whether such an event was told already."""
        with self._lock:
            return any(event.kind == kind and event.data == data for event in self._events)

    def sync(self) -> None:
        """Makes all so far survive a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Nothing is added afterwards."""
        self._file.close()


def _whole_lines(path: Path) -> list[Event]:
    """The events of a file, which is cut back to them."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return [Event(**json.loads(line)) for line in whole.splitlines()]
