"""Tracks a run: parameters, metrics, validation pictures, package and end."""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from atelier.data.recipe import TrackingSpec
from atelier.errors import BadInput
from atelier.home import Home
from pipelines.train.tracking.delivery import Delivery, read_state
from pipelines.train.tracking.journal import Journal
from pipelines.train.tracking.sinks import MlflowSink, Sink, WandbSink

ABOUT, LOG, STATE = "run.json", "log.jsonl", "delivery.json"


class Tracker(Protocol):
    """Records the events of a training."""

    @property
    def run_id(self) -> str | None:
        """The id of the MLflow run, or None before it is created."""
        ...

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Record the parameters and tags. A resumed run calls this again."""
        ...

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Record the metrics of one update."""
        ...

    def picture(self, step: int, index: int, prompt: str, path: Path) -> None:
        """Record a validation picture."""
        ...

    def package(self, path: Path, tags: Mapping[str, str]) -> None:
        """Record the trained package."""
        ...

    def end(self, how: str) -> None:
        """Record the end: `how` is `finished`, `failed` or `stopped`.

        Raises Unavailable if some events could not be delivered.
        """
        ...


class NullTracker:
    """The tracker of a process that is not the leader; it records nothing."""

    run_id: str | None = None

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Do nothing."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Do nothing."""

    def picture(self, step: int, index: int, prompt: str, path: Path) -> None:
        """Do nothing."""

    def package(self, path: Path, tags: Mapping[str, str]) -> None:
        """Do nothing."""

    def end(self, how: str) -> None:
        """Do nothing."""


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to keys such as `train.lr`, and omit None values."""
    if not isinstance(value, dict):
        return {} if value is None else {prefix: value}
    return {
        key: leaf
        for name, inner in value.items()
        for key, leaf in flat(inner, f"{prefix}.{name}" if prefix else name).items()
    }


def run_id_of(folder: Path) -> str | None:
    """Return the id of the MLflow run of a run folder, or None before it is created."""
    state = read_state(folder / STATE).get("mlflow", {})
    run_id: str | None = state.get("identity", {}).get("mlflow.run_id")
    return run_id


class RunTracker:
    """Writes the journal of a run folder and delivers it to the sinks of the recipe."""

    def __init__(self, folder: Path, spec: TrackingSpec, adapter: str, home: Home) -> None:
        self._folder = folder
        self.journal = Journal(folder / LOG)
        self.delivery = Delivery(self.journal, _sinks(folder, spec, adapter, home), folder / STATE)
        self.delivery.start()

    @property
    def run_id(self) -> str | None:
        """The id of the MLflow run, or None before it is created."""
        return run_id_of(self._folder)

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Record the parameters once, because they never change, and tags if they are new."""
        if not self.journal.since(0):
            self.journal.append("params", **params)
        if not self.journal.has("tags", **tags):
            self.journal.append("tags", **tags)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Record the metrics of one update."""
        self.journal.metrics(step, values)

    def picture(self, step: int, index: int, prompt: str, path: Path) -> None:
        """Record a validation picture, once."""
        data = {"step": step, "index": index, "prompt": prompt, "path": str(path)}
        if not self.journal.has("picture", **data):
            self.journal.append("picture", **data)

    def package(self, path: Path, tags: Mapping[str, str]) -> None:
        """Record the package and its tags, once."""
        if not self.journal.has("package", path=str(path)):
            self.journal.append("tags", **tags)
            self.journal.append("package", path=str(path))

    def end(self, how: str) -> None:
        """Record the end and deliver the remaining events.

        Raises Unavailable if some could not be delivered.
        """
        self.journal.append("end", how=how)
        self.journal.sync()
        try:
            if how == "finished":
                self.delivery.finish()
            else:  # a stopped run must end within the grace period
                self.delivery.finish(patience=5.0, slowness=5.0)
        finally:
            self.journal.close()


def deliver(folder: Path, home: Home) -> None:
    """Deliver the events of a run that its training could not deliver.

    Raises BadInput if the folder contains no run, and Unavailable if a sink is still unavailable.
    """
    about = folder / ABOUT
    if not about.exists():
        raise BadInput(
            f"{folder}: contains no training run; use the output folder of `atelier train`"
        )
    recipe = json.loads(about.read_text())["recipe"]
    spec = TrackingSpec.model_validate(recipe["tracking"])
    journal = Journal(folder / LOG)
    try:
        sinks = _sinks(folder, spec, recipe["adapter"], home)
        Delivery(journal, sinks, folder / STATE).finish(patience=3.0)  # a user is waiting
    finally:
        journal.close()


def _sinks(folder: Path, spec: TrackingSpec, adapter: str, home: Home) -> list[Sink]:
    state = read_state(folder / STATE)
    run_name = f"{adapter}-{folder.name}"
    sinks: list[Sink] = []
    if spec.mlflow:
        identity = state.get("mlflow", {}).get("identity", {})
        run_id = identity.get("mlflow.run_id")
        sinks.append(MlflowSink(home.tracking_uri, f"atelier-{adapter}", run_name, run_id))
    if spec.wandb is not None:
        identity = state.get("wandb", {}).get("identity", {})
        run_id = identity.get("wandb.run_id") or uuid.uuid4().hex[:8]
        files = folder / "wandb"
        sinks.append(WandbSink(spec.wandb.project, spec.wandb.mode, run_name, run_id, files))
    return sinks
