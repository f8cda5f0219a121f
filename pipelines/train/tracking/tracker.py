"""A run as its training tells it: parameters, curves, pictures, the package, the end."""

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
    """What a training tells."""

    @property
    def run_id(self) -> str | None:
        """MLflow's name of the run, once it is known."""
        ...

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """What is asked for; called again when a run goes on."""
        ...

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """One update's numbers."""
        ...

    def picture(self, step: int, index: int, prompt: str, path: Path) -> None:
        """One validation picture."""
        ...

    def package(self, path: Path, tags: Mapping[str, str]) -> None:
        """The result."""
        ...

    def end(self, how: str) -> None:
        """`finished`, `failed` or `stopped`; Unavailable where somebody could not be told."""
        ...


class UndeliveredEvents:
    """The tracker of a process that does not speak for the run."""

    run_id: str | None = None

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Nothing."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Nothing."""

    def picture(self, step: int, index: int, prompt: str, path: Path) -> None:
        """Nothing."""

    def package(self, path: Path, tags: Mapping[str, str]) -> None:
        """Nothing."""

    def end(self, how: str) -> None:
        """Nothing."""


def run_id_of(folder: Path) -> str | None:
    """MLflow's name of the run that a folder holds, once it is known."""
    told = read_state(folder / STATE).get("mlflow", {})
    run_id: str | None = told.get("identity", {}).get("mlflow.run_id")
    return run_id


class RunTracker:
    """Writes the journal of a run folder and has it delivered where the recipe says."""

    def __init__(self, folder: Path, spec: TrackingSpec, adapter: str, home: Home) -> None:
        self._folder = folder
        self.journal = Journal(folder / LOG)
        self.delivery = Delivery(self.journal, _sinks(folder, spec, adapter, home), folder / STATE)
        self.delivery.start()

    @property
    def run_id(self) -> str | None:
        """MLflow's name of the run, once it is known."""
        return run_id_of(self._folder)

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Told once: parameters of a run never change."""
        if not self.journal.since(0):
            self.journal.append("params", **params)
        if not self.journal.has("tags", **tags):
            self.journal.append("tags", **tags)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """One update's numbers."""
        self.journal.metrics(step, values)

    def picture(self, step: int, index: int, prompt: str, path: Path) -> None:
        """One validation picture, told once."""
        about = {"step": step, "index": index, "prompt": prompt, "path": str(path)}
        if not self.journal.has("picture", **about):
            self.journal.append("picture", **about)

    def package(self, path: Path, tags: Mapping[str, str]) -> None:
        """The result."""
        if not self.journal.has("package", path=str(path)):
            self.journal.append("tags", **tags)
            self.journal.append("package", path=str(path))

    def end(self, how: str) -> None:
        """The last word of this life of the run; one that is stopped has little time left."""
        self.journal.append("end", how=how)
        self.journal.sync()
        try:
            if how == "finished":
                self.delivery.finish()
            else:
                self.delivery.finish(patience=5.0, slowness=5.0)
        finally:
            self.journal.close()


def deliver(folder: Path, home: Home) -> None:
    """Sends what an earlier life of a run could not; Unavailable where it still cannot be."""
    about = folder / ABOUT
    if not about.exists():
        raise BadInput(f"{folder}: no run lies here; name the folder that training wrote")
    told = json.loads(about.read_text())["recipe"]
    spec = TrackingSpec.model_validate(told["tracking"])
    journal = Journal(folder / LOG)
    try:
        sinks = _sinks(folder, spec, told["adapter"], home)
        Delivery(journal, sinks, folder / STATE).finish(patience=3.0)  # somebody waits for it
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
        where = folder / "wandb"
        sinks.append(WandbSink(spec.wandb.project, spec.wandb.mode, run_name, run_id, where))
    return sinks
