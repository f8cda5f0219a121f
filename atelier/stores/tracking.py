"""Training runs in MLflow, and the one place where its client is set up and its errors translated.

MLflow is imported when it is first needed: that takes seconds, and most of the program never does.
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

# An absent server is to be noticed in seconds; MLflow's own defaults retry for minutes. What the
# environment already says comes first.
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
_SQLITE = b"SQLite format 3\0"  # how every such file begins
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
    """One value of one curve; sending it twice counts once."""

    name: str
    value: float
    step: int
    time: float  # seconds since the epoch


class Tracking:
    """Runs on one MLflow server, or in one local database with its artifacts beside it.

    Methods raise Unavailable where MLflow is away (ask again later), BadInput where it said no.
    """

    def __init__(self, tracking_uri: str):
        _check(tracking_uri)
        self.uri = tracking_uri
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        _reach(tracking_uri)
        make_client = _client_class()
        with self._asking("open"), _alone(_local_database(tracking_uri)):
            self._client = make_client(tracking_uri, registry_uri=tracking_uri)
            self._client.search_experiments(max_results=1)

    def start_run(self, experiment: str, name: str, tags: Mapping[str, str] | None = None) -> str:
        """Begin a run; its id."""
        with self._asking(f"start a run in {experiment}"):
            experiment_id = self._experiment(experiment)
            run = self._client.create_run(experiment_id, run_name=name, tags=dict(tags or {}))
            return str(run.info.run_id)

    def resume_run(self, run_id: str) -> None:
        """Go on with a run that had ended or was killed."""
        with self._asking(f"resume run {run_id}"):
            self._client.update_run(run_id, status="RUNNING")

    def end_run(self, run_id: str, status: Status = "FINISHED") -> None:
        """End a run."""
        with self._asking(f"end run {run_id}"):
            self._client.set_terminated(run_id, status)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        with self._asking(f"tag run {run_id}"):
            for key, value in tags.items():
                self._client.set_tag(run_id, key, value)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log what a run was asked for; a parameter cannot change afterwards."""
        from mlflow.entities import Param

        found = [Param(key, str(value)) for key, value in params.items()]
        with self._asking(f"log parameters of run {run_id}"):
            for start in range(0, len(found), _BATCH):
                self._client.log_batch(run_id, params=found[start : start + _BATCH])

    def log_metrics(self, run_id: str, points: Iterable[Point]) -> None:
        """Log points of curves, in any order and late if need be."""
        from mlflow.entities import Metric

        found = [Metric(one.name, one.value, int(one.time * 1000), one.step) for one in points]
        with self._asking(f"log metrics of run {run_id}"):
            for start in range(0, len(found), _BATCH):
                self._client.log_batch(run_id, metrics=found[start : start + _BATCH])

    def log_file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Store a file with a run."""
        with self._asking(f"store {path.name} with run {run_id}"):
            self._client.log_artifact(run_id, str(path), folder)

    def log_bytes(self, run_id: str, name: str, data: bytes, folder: str | None = None) -> None:
        """Store data with a run, as a file of that name."""
        with tempfile.TemporaryDirectory() as aside:
            file = Path(aside) / name
            file.write_bytes(data)
            self.log_file(run_id, file, folder)

    def log_folder(self, run_id: str, path: Path, folder: str) -> None:
        """Store a folder's files with a run."""
        with self._asking(f"store {path.name} with run {run_id}"):
            self._client.log_artifacts(run_id, str(path), folder)

    def files(self, run_id: str, folder: str | None = None) -> tuple[str, ...]:
        """The paths of what is stored with a run, one level deep."""
        with self._asking(f"list the files of run {run_id}"):
            return tuple(str(one.path) for one in self._client.list_artifacts(run_id, folder))

    def read(self, run_id: str, path: str) -> bytes | None:
        """A file stored with a run, or None where there is none of that path."""
        folder = path.rpartition("/")[0]
        if path not in self.files(run_id, folder or None):
            return None
        with tempfile.TemporaryDirectory() as aside, self._asking(f"read {path} of run {run_id}"):
            return Path(self._client.download_artifacts(run_id, path, aside)).read_bytes()

    def run_url(self, run_id: str) -> str | None:
        """Where a browser shows a run, without credentials; None without a server."""
        if not self.uri.startswith(("http://", "https://")):
            return None
        with self._asking(f"find run {run_id}"):
            experiment = self._client.get_run(run_id).info.experiment_id
        return link(f"{self.uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}")

    def _experiment(self, name: str) -> str:
        """An experiment's id; made where it is missing."""
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            database = _local_database(self.uri)
            artifacts = None if database is None else str(database.parent / "mlartifacts")
            try:
                return str(self._client.create_experiment(name, artifact_location=artifacts))
            except MlflowException:  # another process was first
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """The boundary: MLflow's errors become the two kinds that callers can act on."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            text = f"MLflow at {self.uri} could not {what}: {_first_line(error)}"
            if error.error_code in _CALLER_AT_FAULT:
                raise BadInput(text) from error
            raise Unavailable(f"{text}; try again when it is back", retry_after=5) from error
        except Exception as error:
            # MLflow lets errors of its database toolkit through, which the core may not import.
            if not isinstance(error, OSError) and not _is_of(error, "sqlalchemy"):
                raise
            raise Unavailable(
                f"MLflow at {self.uri} could not {what}: {_first_line(error)}; "
                "check MLFLOW_TRACKING_URI, or try again when it is back",
                retry_after=5,
            ) from error


def _is_of(error: Exception, package: str) -> bool:
    return type(error).__module__.partition(".")[0] == package


def _first_line(error: Exception) -> str:
    lines = redact(str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def _local_database(uri: str) -> Path | None:
    """The file of an sqlite address, its folder made.

    What is no database is noticed here: MLflow would try to open it for minutes.
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
        raise Unavailable(f"MLflow at {uri}: {error.strerror} ({error.filename})") from error
    if start and start != _SQLITE:
        raise BadInput(f"MLflow at {uri}: {database} is no SQLite database; move it out of the way")
    return database


def _check(uri: str) -> None:
    """BadInput where clients disagree about the parts of an address.

    Their errors would then hold a part of the password outside of any address.
    """
    try:
        parts = urlsplit(uri)
        valid = not (parts.netloc and re.search(r"\s", uri))
        _ = parts.port  # ValueError: it is no number
    except ValueError:
        valid = False
    if not valid:
        shown = redact("".join(uri.split()))
        raise BadInput(
            f"MLflow at {shown}: not an address; percent-encode the special characters of user and "
            "password in MLFLOW_TRACKING_URI"
        )


def _reach(uri: str) -> None:
    """Unavailable where nothing listens at the address; connecting costs MLflow far longer."""
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        import requests

        try:
            requests.head(uri, timeout=_REACH_SECONDS)
        except requests.RequestException as error:
            raise Unavailable(_nobody(uri), retry_after=5) from error
    elif parts.hostname and parts.port:
        try:
            socket.create_connection((parts.hostname, parts.port), _REACH_SECONDS).close()
        except OSError as error:
            raise Unavailable(_nobody(uri), retry_after=5) from error


def _nobody(uri: str) -> str:
    return (
        f"MLflow at {uri} does not answer; start it, or set MLFLOW_TRACKING_URI "
        "(unset, a local database is used)"
    )


def _alone(database: Path | None) -> AbstractContextManager[None]:
    """One process at a time makes the tables of a new local database."""
    if database is None:
        return nullcontext()
    return locked(database.with_name(f"{database.name}.lock"))


def _client_class() -> Any:
    """MLflow's client, without its and alembic's word on every table at every start."""
    with collection_paused():
        from mlflow import MlflowClient

    use_long_transfers()
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient
