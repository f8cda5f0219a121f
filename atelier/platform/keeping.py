"""What a process knew of a cluster, in a file, for one that starts while the API server is away."""

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

SPARE_LINES = 1000  # that no longer count, before the file is written anew


@dataclass(frozen=True)
class Restored:
    """What was known, and when."""

    objects: Mapping[str, Object]  # by name
    at: datetime


class KeptObjects:
    """Objects by name in a file of JSON lines; of one name the last line counts.

    A change is appended, so that one of ten thousand objects costs one line. The first `save` of a
    process, and any that finds more outdated lines than others, writes the file anew. So nothing is
    appended to a line that a crash has cut short.
    """

    def __init__(self, path: Path):
        self._path = path
        self._lines: int | None = None  # None: this process has not written it yet
        self.saved: Mapping[str, Object] | None = None  # what is in it

    def restore(self) -> Restored | None:
        """What the file holds; None where that is nothing."""
        try:
            lines = self._path.read_bytes().splitlines()
            at = datetime.fromtimestamp(self._path.stat().st_mtime, UTC)
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("%s cannot be read: %s", self._path, error)
            return None
        objects: dict[str, Object] = {}
        for line in lines:
            try:
                name, one = json.loads(line)
                if one is not None and one["metadata"]["name"] != name:
                    raise ValueError(f"an object of another name than {name}")
            except (ValueError, LookupError, TypeError) as error:
                logger.warning("%s: a line cannot be read: %s", self._path, error)
                continue
            if one is None:
                objects.pop(name, None)
            else:
                objects[name] = one
        if lines and not objects:
            return None
        self.saved = objects
        return Restored(objects, at)

    def save(self, objects: Mapping[str, Object]) -> None:
        """Keep these, which nobody may change any more. OSError where the disk is full."""
        saved, self.saved = self.saved or {}, None
        lines, self._lines = self._lines, None  # where it fails, the next one begins anew
        changed = {name: one for name, one in objects.items() if _differs(one, saved.get(name))}
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


def _differs(one: Object, before: Object | None) -> bool:
    return one is not before and one != before


def _line(name: str, one: Object | None) -> bytes:
    return json.dumps([name, one], separators=(",", ":")).encode() + b"\n"
