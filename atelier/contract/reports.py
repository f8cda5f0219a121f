"""What a running process tells the others about itself, and for how long that is believed."""

import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from atelier.files import write_atomic

LIVE_SECONDS = 5.0  # five missed heartbeats


class Report(BaseModel, ABC):
    """One process's words about itself."""

    model_config = ConfigDict(frozen=True, extra="ignore")

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

    def list(self) -> dict[str, ReportT]:
        """Every readable report; one that cannot be read counts as a process that is not there."""
        found = {}
        for file in sorted(self.path.glob("[!.]*.json")):
            try:
                report: ReportT = self.kind.model_validate_json(file.read_bytes())  # type: ignore[assignment]
            except (OSError, ValidationError):
                continue
            found[report.reporter] = report
        return found

    def live(self) -> tuple[ReportT, ...]:
        """Those whose heartbeat is recent."""
        return tuple(one for one in self.list().values() if one.live())

    def put(self, report: ReportT) -> None:
        """Write a report."""
        write_atomic(self._file(report.reporter), report.model_dump_json(indent=2))

    def remove(self, reporter: str) -> None:
        """Forget a process that has ended."""
        self._file(reporter).unlink(missing_ok=True)

    def _file(self, reporter: str) -> Path:
        return self.path / f"{reporter}.json"
