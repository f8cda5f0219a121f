"""Reports of running processes, and their period of validity."""

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
    """A process's statement of its state."""

    heartbeat: float  # seconds since the epoch

    @property
    @abstractmethod
    def reporter(self) -> str:
        """The name of the reporting process."""

    def live(self, now: float | None = None) -> bool:
        """Return whether the heartbeat is recent at `now`, by default the current time."""
        return (time.time() if now is None else now) - self.heartbeat < LIVE_SECONDS


ReportT = TypeVar("ReportT", bound=Report)


class ReportFolder(Generic[ReportT]):
    """The reports of one kind on one machine: each process writes one file."""

    kind: ClassVar[type[Report]]

    def __init__(self, path: Path):
        self.path = path
        self._pool: ShardPool[ReportT] = ShardPool(self.kind)  # type: ignore[arg-type]
        self._files: dict[Path, ShardedFile[ReportT]] = {}
        self._unreadable: dict[Path, str] = {}  # errors that were logged

    def list(self) -> dict[str, ReportT]:
        """Return all readable reports by process; an unreadable one is logged and omitted."""
        reports: dict[str, ReportT] = {}
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
                    logger.warning(
                        "%s: is not a report, so its process counts as absent: %s", path, error
                    )
                continue
            reports[report.reporter] = report
        self._unreadable = unreadable
        return reports

    def live(self) -> tuple[ReportT, ...]:
        """Return the reports with a recent heartbeat."""
        return tuple(report for report in self.list().values() if report.live())

    def put(self, report: ReportT) -> None:
        """Write the report of a process."""
        path = self._path(report.reporter)
        self._files[path] = file = self._file(path)
        file.write(report)

    def remove(self, reporter: str) -> None:
        """Delete the report of a process that has ended."""
        path = self._path(reporter)
        self._file(path).remove()
        self._files.pop(path, None)

    def _path(self, reporter: str) -> Path:
        return self.path / f"{reporter}.json"

    def _file(self, path: Path) -> ShardedFile[ReportT]:
        return self._files.get(path) or ShardedFile(path, self._pool.kind, self._pool)
