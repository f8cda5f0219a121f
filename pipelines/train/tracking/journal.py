"""The journal of a run: a file with one event in each line, written before anything is sent.

Sinks read the journal independently, so an unavailable server delays nothing and loses no event.
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
    """One line of the journal. `time` is in seconds since the epoch; `data` depends on `kind`."""

    number: int
    time: float
    kind: Kind
    data: dict[str, Any]


class Journal:
    """An append-only file `log.jsonl`; an incomplete last line of a killed process is removed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._events = _whole_lines(path)
        self._recorded: dict[str, int] = {}  # the last step of each metric
        for event in self._events:
            if event.kind == "metrics":
                self._recorded |= dict.fromkeys(event.data["values"], event.data["step"])
        self._file = path.open("a", encoding="utf-8")

    def append(self, kind: Kind, **data: Any) -> None:
        """Append one event."""
        with self._lock:
            event = Event(len(self._events), time.time(), kind, data)
            self._file.write(json.dumps(asdict(event), ensure_ascii=False) + "\n")
            self._file.flush()
            self._events.append(event)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Append the metrics of one step that the run did not record before it was resumed."""
        new = {name: value for name, value in values.items() if step > self._recorded.get(name, 0)}
        if new:
            self._recorded |= dict.fromkeys(new, step)
            self.append("metrics", step=step, values=new)

    def since(self, number: int) -> list[Event]:
        """Return the events from `number` on."""
        with self._lock:
            return self._events[number:]

    def has(self, kind: Kind, **data: Any) -> bool:
        """Return whether the journal contains an event of this kind with exactly this data."""
        with self._lock:
            return any(event.kind == kind and event.data == data for event in self._events)

    def sync(self) -> None:
        """Flush all events to the disk, so that they survive a power failure."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _whole_lines(path: Path) -> list[Event]:
    """Return the events of a file, after removing an incomplete last line from the file."""
    if not path.exists():
        return []
    data = path.read_bytes()
    complete = data[: data.rfind(b"\n") + 1]
    if len(complete) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(complete))
    return [Event(**json.loads(line)) for line in complete.splitlines()]
