"""Runs in MLflow: the setup of its client, and the translation of its errors.

MLflow is imported on first use: the import takes seconds, and most commands do not need it.
"""

import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from atelier.addresses import link, redact
from atelier.errors import BadInput, Unavailable
from atelier.files import locked
from atelier.imports import collection_paused
from atelier.transfers import use_long_transfers

Status = Literal["FINISHED", "FAILED", "KILLED"]

# An absent server must be detected in seconds, but MLflow's defaults retry for minutes. Variables
# that are already set take precedence.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_REACH_SECONDS = 3.0
_SQLITE = b"SQLite format 3\0"  # the first bytes of every SQLite file
_BATCH = 100  # MLflow takes at most 100 parameters and 1000 metrics in one call
_CALLER_AT_FAULT = frozenset(
    {
        "BAD_REQUEST",
        "INVALID_PARAMETER_VALUE",
        "INVALID_STATE",
        "PERMISSION_DENIED",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_DOES_NOT_EXIST",
        "UNAUTHENTICATED",
    }
)


@dataclass(frozen=True)
class Point:
    """One value of a metric. A repeated point has no further effect."""

    name: str
    value: float
    step: int
    time: float  # seconds since the epoch


@dataclass(frozen=True)
class RunInfo:
    """The parameters and tags of a run, and the names of its metrics."""

    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: tuple[str, ...]


class Tracking:
    """Runs on one MLflow server, or in one local database with its artifacts beside it.

    Methods raise Unavailable if MLflow cannot be reached (a retry may succeed), BadInput if MLflow
    refuses the call.
    """

    def __init__(self, tracking_uri: str):
        _check(tracking_uri)
        self.uri = tracking_uri
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        _reach(tracking_uri)
        make_client = _client_class()
        with self._call("open"), _exclusive(_local_database(tracking_uri)):
            self._client = make_client(tracking_uri, registry_uri=tracking_uri)
            self._client.search_experiments(max_results=1)

    def start_run(self, experiment: str, name: str, tags: Mapping[str, str] | None = None) -> str:
        """Start a run; return its id."""
        with self._call(f"start a run in {experiment}"):
            experiment_id = self._experiment(experiment)
            run = self._client.create_run(experiment_id, run_name=name, tags=dict(tags or {}))
            return str(run.info.run_id)

    def resume_run(self, run_id: str) -> None:
        """Resume a run that has ended or was killed."""
        with self._call(f"resume run {run_id}"):
            self._client.update_run(run_id, status="RUNNING")

    def end_run(self, run_id: str, status: Status = "FINISHED") -> None:
        """End a run."""
        with self._call(f"end run {run_id}"):
            self._client.set_terminated(run_id, status)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        with self._call(f"tag run {run_id}"):
            for key, value in tags.items():
                self._client.set_tag(run_id, key, value)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log parameters of a run, which cannot change afterwards."""
        from mlflow.entities import Param

        entries = [Param(key, str(value)) for key, value in params.items()]
        with self._call(f"log parameters of run {run_id}"):
            for start in range(0, len(entries), _BATCH):
                self._client.log_batch(run_id, params=entries[start : start + _BATCH])

    def log_metrics(self, run_id: str, points: Iterable[Point]) -> None:
        """Log points of metrics, in any order."""
        from mlflow.entities import Metric

        entries = [Metric(p.name, p.value, int(p.time * 1000), p.step) for p in points]
        with self._call(f"log metrics of run {run_id}"):
            for start in range(0, len(entries), _BATCH):
                self._client.log_batch(run_id, metrics=entries[start : start + _BATCH])

    def log_file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Store a file with a run, below `folder`."""
        with self._call(f"store {path.name} with run {run_id}"):
            self._client.log_artifact(run_id, str(path), folder)

    def log_bytes(self, run_id: str, name: str, data: bytes, folder: str | None = None) -> None:
        """Store bytes with a run, as the file `name`."""
        with tempfile.TemporaryDirectory() as aside:
            file = Path(aside) / name
            file.write_bytes(data)
            self.log_file(run_id, file, folder)

    def log_folder(self, run_id: str, path: Path, folder: str) -> None:
        """Store the files of a folder with a run."""
        with self._call(f"store {path.name} with run {run_id}"):
            self._client.log_artifacts(run_id, str(path), folder)

    def run(self, run_id: str) -> RunInfo:
        """Return what a run recorded. Raises BadInput if there is no such run."""
        with self._call(f"read run {run_id}"):
            data = self._client.get_run(run_id).data
            return RunInfo(dict(data.params), dict(data.tags), tuple(sorted(data.metrics)))

    def history(self, run_id: str, metric: str) -> tuple[Point, ...]:
        """Return all points of a metric of a run, by ascending step."""
        with self._call(f"read {metric} of run {run_id}"):
            points = self._client.get_metric_history(run_id, metric)
        return tuple(
            Point(metric, point.value, point.step, point.timestamp / 1000)
            for point in sorted(points, key=lambda point: point.step)
        )

    def files(self, run_id: str, folder: str | None = None) -> tuple[str, ...]:
        """Return the paths of a run's files and folders, one level deep."""
        with self._call(f"list the files of run {run_id}"):
            return tuple(str(file.path) for file in self._client.list_artifacts(run_id, folder))

    def read(self, run_id: str, path: str) -> bytes | None:
        """Return a file of a run, or None if the run has no such file."""
        folder = path.rpartition("/")[0]
        if path not in self.files(run_id, folder or None):
            return None
        with tempfile.TemporaryDirectory() as aside, self._call(f"read {path} of run {run_id}"):
            return Path(self._client.download_artifacts(run_id, path, aside)).read_bytes()

    def run_url(self, run_id: str) -> str | None:
        """Return a run's URL in MLflow, without credentials; None for a local database."""
        if not self.uri.startswith(("http://", "https://")):
            return None
        with self._call(f"find run {run_id}"):
            experiment = self._client.get_run(run_id).info.experiment_id
        return link(f"{self.uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}")

    def _experiment(self, name: str) -> str:
        """Return the id of an experiment; create it if it is missing."""
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            database = _local_database(self.uri)
            artifacts = None if database is None else str(database.parent / "mlartifacts")
            try:
                return str(self._client.create_experiment(name, artifact_location=artifacts))
            except MlflowException:  # another process created it
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    @contextmanager
    def _call(self, action: str) -> Iterator[None]:
        """Translate MLflow's errors into Unavailable and BadInput."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            text = f"MLflow at {self.uri} could not {action}: {_first_line(error)}"
            if error.error_code in _CALLER_AT_FAULT:
                raise BadInput(text) from error
            raise Unavailable(f"{text}; try again when it is available", retry_after=5) from error
        except Exception as error:
            # MLflow passes errors of SQLAlchemy on, which the core must not import.
            if not isinstance(error, OSError) and not _is_of(error, "sqlalchemy"):
                raise
            raise Unavailable(
                f"MLflow at {self.uri} could not {action}: {_first_line(error)}; "
                "check MLFLOW_TRACKING_URI, or try again when it is available",
                retry_after=5,
            ) from error


def _is_of(error: Exception, package: str) -> bool:
    return type(error).__module__.partition(".")[0] == package


def _first_line(error: Exception) -> str:
    lines = redact(str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def _local_database(uri: str) -> Path | None:
    """Return the file of an sqlite address, and create its folder; None for other addresses.

    Raises BadInput for a file that is not a database, which MLflow would try to open for minutes.
    """
    if not uri.startswith("sqlite:///"):
        return None
    database = Path(uri.removeprefix("sqlite:///")).absolute()
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        start = b""
        if database.exists():
            with database.open("rb") as file:
                start = file.read(len(_SQLITE))
    except OSError as error:
        raise Unavailable(
            f"MLflow at {uri}: {error.strerror} ({error.filename}); check MLFLOW_TRACKING_URI"
        ) from error
    if start and start != _SQLITE:
        raise BadInput(
            f"MLflow at {uri}: {database} is not an SQLite database; move the file, or set "
            "MLFLOW_TRACKING_URI"
        )
    return database


def _check(uri: str) -> None:
    """Raise BadInput for an address that different clients would parse differently.

    The errors of those clients could contain a part of the password outside an address.
    """
    try:
        parts = urlsplit(uri)
        valid = not (parts.netloc and re.search(r"\s", uri))
        _ = parts.port  # raises ValueError if it is not a number
    except ValueError:
        valid = False
    if not valid:
        shown = redact("".join(uri.split()))
        raise BadInput(
            f"MLflow at {shown}: not a valid address; percent-encode the special characters of "
            "user and password in MLFLOW_TRACKING_URI"
        )


def _reach(uri: str) -> None:
    """Raise Unavailable if no server listens at the address; MLflow itself would wait longer."""
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        import requests

        try:
            requests.head(uri, timeout=_REACH_SECONDS)
        except requests.RequestException as error:
            raise Unavailable(_unreachable(uri), retry_after=5) from error
    elif parts.hostname and parts.port:
        try:
            socket.create_connection((parts.hostname, parts.port), _REACH_SECONDS).close()
        except OSError as error:
            raise Unavailable(_unreachable(uri), retry_after=5) from error


def _unreachable(uri: str) -> str:
    return (
        f"MLflow at {uri} does not answer; start it, or set MLFLOW_TRACKING_URI (if it is unset, a "
        "local database is used)"
    )


def _exclusive(database: Path | None) -> AbstractContextManager[None]:
    """Return a lock for the creation of a local database's tables by one process at a time."""
    if database is None:
        return nullcontext()
    return locked(database.with_name(f"{database.name}.lock"))


def _client_class() -> Any:
    """Return MLflow's client class, and silence its and alembic's messages about each table."""
    with collection_paused():
        from mlflow import MlflowClient

    use_long_transfers()
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient
