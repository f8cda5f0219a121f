"""A file of a cluster's objects, for processes that start while the API server is unavailable."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from atelier.files import write_atomic
from atelier.platform.api import Object

logger = logging.getLogger(__name__)

SPARE_LINES = 1000  # outdated lines before the file is rewritten


@dataclass(frozen=True)
class Restored:
    """The saved objects, and the time of the save."""

    objects: Mapping[str, Object]  # by name
    at: datetime


class KeptObjects:
    """Objects by name in a file of JSON lines; the last line of a name counts.

    A change of one object appends one line. The first `save` of a process rewrites the file, so
    nothing is appended to a line that a crash has truncated. A `save` also rewrites the file if it
    has more outdated lines than objects and `SPARE_LINES` together.
    """

    def __init__(self, path: Path):
        self._path = path
        self._lines: int | None = None  # None: this process has not written the file yet
        self.saved: Mapping[str, Object] | None = None  # the content of the file

    def restore(self) -> Restored | None:
        """Read the file; None if it is missing, empty or unreadable."""
        try:
            lines = self._path.read_bytes().splitlines()
            at = datetime.fromtimestamp(self._path.stat().st_mtime, UTC)
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("%s: cannot be read: %s", self._path, error)
            return None
        objects: dict[str, Object] = {}
        for line in lines:
            try:
                name, item = json.loads(line)
                if item is not None and item["metadata"]["name"] != name:
                    raise ValueError(f"the object's name is not {name}")
            except (ValueError, LookupError, TypeError) as error:
                logger.warning("%s: a line cannot be read: %s", self._path, error)
                continue
            if item is None:
                objects.pop(name, None)
            else:
                objects[name] = item
        if lines and not objects:
            return None
        self.saved = objects
        return Restored(objects, at)

    def save(self, objects: Mapping[str, Object]) -> None:
        """Save objects, which must not be changed afterwards.

        Raises OSError if the disk is full.
        """
        saved, self.saved = self.saved or {}, None
        lines, self._lines = self._lines, None  # if this fails, the next save rewrites the file
        changed = {name: item for name, item in objects.items() if _differs(item, saved.get(name))}
        gone = saved.keys() - objects.keys()
        if lines is not None:
            lines += len(changed) + len(gone)
        if lines is None or lines > 2 * len(objects) + SPARE_LINES:
            write_atomic(self._path, b"".join(_line(*item) for item in objects.items()))
            lines = len(objects)
        elif changed or gone:
            with self._path.open("ab") as file:
                file.write(b"".join(_line(*item) for item in changed.items()))
                file.write(b"".join(_line(name, None) for name in gone))
        self.saved, self._lines = objects, lines


def _differs(item: Object, before: Object | None) -> bool:
    return item is not before and item != before


def _line(name: str, item: Object | None) -> bytes:
    return json.dumps([name, item], separators=(",", ":")).encode() + b"\n"
