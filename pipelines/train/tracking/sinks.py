"""Sinks for the events of a run: MLflow, and Weights & Biases if the recipe enables it."""

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
    """A receiver of events. Every method may raise Unavailable and is then called again."""

    name: str
    local: bool  # whether it is on this machine, so that it can be slow but not unreachable

    def send(self, events: Sequence[Event]) -> None:
        """Send the events in order. Sending an event twice must have no effect."""
        ...

    def identity(self) -> dict[str, str]:
        """Return the id and address of the run in this sink, as tags for the other sinks."""
        ...

    def link(self, tags: dict[str, str]) -> None:
        """Record the identity of the run in the other sinks."""
        ...

    def close(self) -> None:
        """Finish sending and release resources."""
        ...


class MlflowSink:
    """Sends to a run of MLflow; `run_id` is None until the run is created."""

    name = "mlflow"

    def __init__(self, uri: str, experiment: str, run_name: str, run_id: str | None) -> None:
        self.uri, self.experiment, self.run_name, self.run_id = uri, experiment, run_name, run_id
        self.local = uri.startswith("sqlite:")
        self._tracking: Tracking | None = None
        self._running = False

    def send(self, events: Sequence[Event]) -> None:
        """Send all metrics in one call, and the other events one by one."""
        tracking, run = self._open(resume=True)
        points = [
            Point(name, value, event.data["step"], event.time)
            for event in events
            if event.kind == "metrics"
            for name, value in event.data["values"].items()
        ]
        if points:
            tracking.log_metrics(run, points)
        for event in events:
            self._send_event(tracking, run, event)

    def identity(self) -> dict[str, str]:
        """Return the run id and the address of the run."""
        tracking, run = self._open()
        return {"mlflow.run_id": run, "mlflow.uri": tracking.run_url(run) or redact(self.uri)}

    def link(self, tags: dict[str, str]) -> None:
        """Set the tags on the run."""
        tracking, run = self._open()
        tracking.set_tags(run, tags)

    def close(self) -> None:
        """Do nothing: the client keeps no connection open."""

    def _open(self, *, resume: bool = False) -> tuple[Tracking, str]:
        if self._tracking is None:
            self._tracking = Tracking(self.uri)
        if self.run_id is None:
            self.run_id = self._tracking.start_run(self.experiment, self.run_name)
            self._running = True
        if resume and not self._running:  # an earlier process had ended the run
            self._tracking.resume_run(self.run_id)
            self._running = True
        return self._tracking, self.run_id

    def _send_event(self, tracking: Tracking, run: str, event: Event) -> None:
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
    """Sends to a run of Weights & Biases, online or stored in a folder for `wandb sync`."""

    name = "wandb"

    def __init__(self, project: str, mode: str, run_name: str, run_id: str, folder: Path) -> None:
        self.project, self.run_name, self.run_id, self.folder = project, run_name, run_id, folder
        # The variable WANDB_MODE (offline, disabled) overrides the recipe.
        self.mode: Any = os.environ.get("WANDB_MODE") or mode
        self.local = self.mode != "online"
        self._run: Any = None

    def send(self, events: Sequence[Event]) -> None:
        """Pass the events to the W&B client, which sends them in the background."""
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
        """Return the run id, the project, and the address if the run is online."""
        url = getattr(self._open(), "url", None)
        tags = {"wandb.run_id": self.run_id, "wandb.project": self.project}
        return tags | ({"wandb.url": redact(str(url))} if url else {})

    def link(self, tags: dict[str, str]) -> None:
        """Add the tags to the configuration of the run."""
        self._open().config.update(tags, allow_val_change=True)

    def close(self) -> None:
        """Wait until the client has written everything."""
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
                    # the address of a git remote may contain a token; the commit is recorded
                    settings=wandb.Settings(
                        silent=True, console="off", init_timeout=30, disable_git=True
                    ),
                )
            except Exception as error:  # the client raises many types besides wandb.Error
                raise Unavailable(
                    f"Weights & Biases is unreachable ({error}); set tracking.wandb.mode to "
                    "offline, or try again",
                    retry_after=5,
                ) from error
        return self._run

    @staticmethod
    def _picture(run: Any, event: Event) -> None:
        import wandb

        picture = wandb.Image(event.data["path"], caption=event.data["prompt"])
        run.log({f"samples/{event.data['index']}": picture}, step=event.data["step"])
