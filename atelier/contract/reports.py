"""What a running process tells the others about itself, and for how long that is believed."""

import logging
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from atelier.contract.sharded_file import ShardedFile
from atelier.contract.shards import ShardedModel, ShardPool

logger = logging.getLogger(__name__)

LIVE_SECONDS = 5.0  # five missed heartbeats


class Report(ShardedModel, ABC):
    """One process's words about itself."""

    heartbeat: float  # seconds since the epoch

    @property
    @abstractmethod
    def reporter(self) -> str:
        """Whose words they are."""

    def live(self, now: float | None = None) -> bool:
        """Whether its heartbeat is recent."""
        return (time.time() if now is None else now) - self.heartbeat < LIVE_SECONDS


ReportT = TypeVar("ReportT", bound=Report)


class ReportFolder(Generic[ReportT]):
    """The reports of one kind on one machine: a file for each process, written by itself alone."""

    kind: ClassVar[type[Report]]

    def __init__(self, path: Path):
        self.path = path
        self._pool: ShardPool[ReportT] = ShardPool(self.kind)  # type: ignore[arg-type]
        self._files: dict[Path, ShardedFile[ReportT]] = {}
        self._unreadable: dict[Path, str] = {}  # why, as the log has said

    def list(self) -> dict[str, ReportT]:
        """Every readable report; one that cannot be read counts as a process that is not there."""
        found: dict[str, ReportT] = {}
        unreadable: dict[Path, str] = {}
        paths = sorted(self.path.glob("[!.]*.json"))
        self._files = {path: self._file(path) for path in paths}
        for path, file in self._files.items():
            try:
                report = file.read()
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                unreadable[path] = str(error)
                if self._unreadable.get(path) != unreadable[path]:
                    logger.warning("%s is not a report, and counts as absent: %s", path, error)
                continue
            found[report.reporter] = report
        self._unreadable = unreadable
        return found

    def live(self) -> tuple[ReportT, ...]:
        """Those whose heartbeat is recent."""
        return tuple(one for one in self.list().values() if one.live())

    def put(self, report: ReportT) -> None:
        """Write a report."""
        path = self._path(report.reporter)
        self._files[path] = file = self._file(path)
        file.write(report)

    def remove(self, reporter: str) -> None:
        """Forget a process that has ended."""
        path = self._path(reporter)
        self._file(path).remove()
        self._files.pop(path, None)

    def _path(self, reporter: str) -> Path:
        return self.path / f"{reporter}.json"

    def _file(self, path: Path) -> ShardedFile[ReportT]:
        known = self._files.get(path)
        return known or ShardedFile(path, self._pool.kind, self._pool)
