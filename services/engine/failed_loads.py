"""The versions that an engine could not load, and the times of the next attempts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

RETRY, LONGEST_RETRY = 5.0, 60.0  # seconds until a failed version is tried again; doubled each time
CHECK = 1.0  # seconds between two checks whether a failed package has been replaced

Identity = tuple[str, int]


@dataclass(frozen=True)
class _Failure:
    """A version that could not be loaded, and the times of its attempts (monotonic seconds)."""

    package: Path
    folder: tuple[int, int] | None  # inode and change time of the package
    wait: float
    again: float


class FailedLoads:
    """The versions that could not be loaded.

    Each version is tried again after a wait, which doubles with each failure, or as soon as its
    package has been replaced.
    """

    def __init__(self) -> None:
        self._failures: dict[Identity, _Failure] = {}
        self._check_at = 0.0

    def add(self, identity: Identity, package: Path, folder: tuple[int, int] | None) -> None:
        """Record a failed attempt. `folder` is the state of the package before the attempt."""
        last = self._failures.get(identity)
        wait = min(2 * last.wait, LONGEST_RETRY) if last else RETRY
        again = time.monotonic() + wait
        self._failures[identity] = _Failure(package, folder, wait, again)

    def forget(self, identity: Identity) -> None:
        """Remove a version that has been loaded or is no longer wanted."""
        self._failures.pop(identity, None)

    def due(self) -> set[str]:
        """Return the adapters with a version that must be tried again now."""
        now = time.monotonic()
        if not self._failures or now < self._check_at:
            return set()
        self._check_at = now + CHECK
        return {
            name
            for (name, _), failure in self._failures.items()
            if now >= failure.again or package_state(failure.package) != failure.folder
        }


def package_state(path: Path) -> tuple[int, int] | None:
    """Return inode and change time of a package, or None. They differ after a replacement."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns
