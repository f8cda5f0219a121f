"""What `atelier submit` and `atelier compile --submit` share: a Job's options, and its way."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.errors import BadInput
from atelier.home import Home
from commands.verb import Answer

if TYPE_CHECKING:
    from atelier.platform.jobs import JobOptions, Work

NAMESPACE = "atelier-training"


@dataclass(frozen=True)
class JobChoices:
    """Where and how a Job runs, as it is asked for; a group of options (see commands.verb)."""

    queue: Annotated[str | None, typer.Option(help="Kueue's LocalQueue to wait in.")] = None
    priority: Annotated[
        str | None, typer.Option(help="Kueue's WorkloadPriorityClass; wants --queue.")
    ] = None
    gpus: Annotated[
        int | None,
        typer.Option(
            min=0,
            show_default=False,
            help="GPUs of the pool; a training takes a batch on each, TensorRT has one anyway.",
        ),
    ] = None
    gpu_kind: Annotated[
        str | None,
        typer.Option(
            metavar="KIND", help="Only of this kind: nodes with nvidia.com/gpu.product=KIND."
        ),
    ] = None
    namespace: Annotated[str, typer.Option(help="Where the Job runs.")] = NAMESPACE
    image: Annotated[
        str | None, typer.Option(envvar="ATELIER_TRAIN_IMAGE", help="atelier-train, by digest.")
    ] = None
    volume: Annotated[
        str | None,
        typer.Option(metavar="CLAIM", help="For what outlives a pod; else one of its own."),
    ] = None
    volume_size: Annotated[str, typer.Option(help="Of a claim of its own.")] = "50Gi"
    volume_class: Annotated[str | None, typer.Option(help="Storage class of such a claim.")] = None
    cpu: Annotated[str, typer.Option(help="CPUs to request.")] = "4"
    memory: Annotated[str, typer.Option(help="Memory to request, and the limit.")] = "16Gi"
    deadline: Annotated[
        int,
        typer.Option(min=1, metavar="HOURS", help="It may run, all pods together; then it fails."),
    ] = 72
    follow: Annotated[
        bool, typer.Option("--follow", help="Show what it says, and end with how it ended.")
    ] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the Job; upload and create nothing.")
    ] = False

    def options(self, gpus: int) -> "JobOptions":
        """Of a Job with so many GPUs; BadInput where no pod could carry it out."""
        from atelier.platform.jobs import JobOptions

        if self.image is None:
            raise BadInput("--image or ATELIER_TRAIN_IMAGE: name the atelier-train image")
        if self.priority and not self.queue:
            raise BadInput("--priority: is Kueue's; name the queue with --queue")
        if self.gpu_kind and not gpus:
            raise BadInput("--gpu-kind: is the kind of --gpus, and none is asked for")
        if Home.find().tracking_uri.startswith("sqlite:") and not self.dry_run:
            raise BadInput(
                "MLFLOW_TRACKING_URI: not set; name the MLflow that the cluster's Jobs fetch from"
            )
        return JobOptions(
            namespace=self.namespace,
            image=self.image,
            gpus=gpus,
            gpu_kind=self.gpu_kind,
            queue=self.queue,
            priority=self.priority,
            volume=self.volume,
            volume_size=self.volume_size,
            volume_class=self.volume_class,
            cpu=self.cpu,
            memory=self.memory,
            deadline=self.deadline * 3600,
        )


def shown(work: "Work", options: "JobOptions") -> Answer:
    """The Job as it would be made."""
    import yaml

    from atelier.platform.jobs import job_object

    job = job_object(work, options)
    return Answer(yaml.safe_dump(job, sort_keys=False).rstrip(), job)


def sent(work: "Work", options: "JobOptions", about: Mapping[str, Any], *, follow: bool) -> Answer:
    """The Job, made now or earlier, and with `follow` its end."""
    from atelier.platform import Api
    from atelier.platform.jobs import Follower, submit_job

    api = Api.connect(options.namespace)
    job, created = submit_job(api, work, options)
    name = str(job["metadata"]["name"])
    said = f"Job {options.namespace}/{name}: {'created' if created else 'was there already'}"
    data = {**about, "job": name, "namespace": options.namespace, "created": created}
    if not follow:
        return Answer(said, data)
    print(said, file=sys.stderr)
    outcome = Follower(api, name, lambda line: print(line, file=sys.stderr, flush=True)).follow()
    data |= {
        "succeeded": outcome.succeeded,
        "exit_code": outcome.exit_code,
        "reason": outcome.reason,
    }
    ended = "done" if outcome.succeeded else f"failed ({outcome.reason})"
    return Answer(f"Job {options.namespace}/{name}: {ended}", data, outcome.exit_code)
