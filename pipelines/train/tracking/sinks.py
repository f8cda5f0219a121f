"""Where a run is told about: MLflow, and Weights & Biases where the recipe asks for it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from atelier.addresses import redact
from atelier.errors import Unavailable
from atelier.stores.tracking import Point, Status, Tracking
from pipelines.train.tracking.journal import Event

_STATUS: dict[str, Status] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


class Sink(Protocol):
    """One place that is told; every method may raise Unavailable and is then called again."""

    name: str
    local: bool  # on this machine: it can be slow, but not away

    def send(self, events: Sequence[Event]) -> None:
        """Tells the events, in order; telling some of them twice must not matter."""
        ...

    def identity(self) -> dict[str, str]:
        """How the run is called there, as tags for the other places."""
        ...

    def link(self, tags: dict[str, str]) -> None:
        """Notes how the run is called elsewhere."""
        ...

    def close(self) -> None:
        """Nothing is sent afterwards."""
        ...


class MlflowSink:
    """A run of MLflow; `run_id` is None before the first contact of the run's first life."""

    name = "mlflow"

    def __init__(self, uri: str, experiment: str, run_name: str, run_id: str | None) -> None:
        self.uri, self.experiment, self.run_name, self.run_id = uri, experiment, run_name, run_id
        self.local = uri.startswith("sqlite:")
        self._tracking: Tracking | None = None
        self._running = False

    def send(self, events: Sequence[Event]) -> None:
        """Curves in one call, the rest event by event."""
        tracking, run = self._open(going_on=True)
        points = [
            Point(name, value, event.data["step"], event.time)
            for event in events
            if event.kind == "metrics"
            for name, value in event.data["values"].items()
        ]
        if points:
            tracking.log_metrics(run, points)
        for event in events:
            self._tell(tracking, run, event)

    def identity(self) -> dict[str, str]:
        """Run id and address."""
        tracking, run = self._open()
        return {"mlflow.run_id": run, "mlflow.uri": tracking.run_url(run) or redact(self.uri)}

    def link(self, tags: dict[str, str]) -> None:
        """As tags of the run."""
        tracking, run = self._open()
        tracking.set_tags(run, tags)

    def close(self) -> None:
        """MLflow holds nothing open."""

    def _open(self, *, going_on: bool = False) -> tuple[Tracking, str]:
        if self._tracking is None:
            self._tracking = Tracking(self.uri)
        if self.run_id is None:
            self.run_id = self._tracking.start_run(self.experiment, self.run_name)
            self._running = True
        if going_on and not self._running:  # an earlier life of the run had ended it
            self._tracking.resume_run(self.run_id)
            self._running = True
        return self._tracking, self.run_id

    def _tell(self, tracking: Tracking, run: str, event: Event) -> None:
        if event.kind == "params":
            tracking.log_params(run, event.data)
        elif event.kind == "tags":
            tracking.set_tags(run, event.data)
        elif event.kind == "picture":
            tracking.log_file(run, Path(event.data["path"]), "samples")
        elif event.kind == "package":
            tracking.log_folder(run, Path(event.data["path"]), "package")
        elif event.kind == "end":
            tracking.end_run(run, _STATUS[event.data["how"]])


class WandbSink:
    """A run of Weights & Biases, online or kept in a folder for `wandb sync`."""

    name = "wandb"

    def __init__(self, project: str, mode: str, run_name: str, run_id: str, folder: Path) -> None:
        self.project, self.run_name, self.run_id, self.folder = project, run_name, run_id, folder
        # Whoever runs it has the last word: WANDB_MODE=offline or disabled is obeyed.
        self.mode: Any = os.environ.get("WANDB_MODE") or mode
        self.local = self.mode != "online"
        self._run: Any = None

    def send(self, events: Sequence[Event]) -> None:
        """Everything in order; W&B itself sends in the background."""
        run = self._open()
        for event in events:
            if event.kind in ("params", "tags"):
                run.config.update(event.data, allow_val_change=True)
            elif event.kind == "metrics":
                run.log(event.data["values"], step=event.data["step"])
            elif event.kind == "picture":
                self._picture(run, event)
            elif event.kind == "package":
                run.save(
                    str(Path(event.data["path"]) / "*"), str(Path(event.data["path"]).parent), "now"
                )

    def identity(self) -> dict[str, str]:
        """Run id, project, and address where there is one."""
        url = getattr(self._open(), "url", None)
        tags = {"wandb.run_id": self.run_id, "wandb.project": self.project}
        return tags | ({"wandb.url": redact(str(url))} if url else {})

    def link(self, tags: dict[str, str]) -> None:
        """In the run's configuration."""
        self._open().config.update(tags, allow_val_change=True)

    def close(self) -> None:
        """Waits until what was sent is written."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _open(self) -> Any:
        if self._run is None:
            import wandb

            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._run = wandb.init(
                    project=self.project,
                    name=self.run_name,
                    id=self.run_id,
                    resume="allow",
                    mode=self.mode,
                    dir=str(self.folder),
                    # the commit is in the configuration; a remote's address may hold a token
                    settings=wandb.Settings(
                        silent=True, console="off", init_timeout=30, disable_git=True
                    ),
                )
            except Exception as error:  # its client raises far more than wandb.Error
                raise Unavailable(
                    f"Weights & Biases cannot be reached ({error}); set tracking.wandb.mode to "
                    "offline, or try again",
                    retry_after=5,
                ) from error
        return self._run

    @staticmethod
    def _picture(run: Any, event: Event) -> None:
        import wandb

        picture = wandb.Image(event.data["path"], caption=event.data["prompt"])
        run.log({f"samples/{event.data['index']}": picture}, step=event.data["step"])
