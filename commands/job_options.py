"""Shared by `atelier submit` and `atelier compile --submit`: a Job's options and submission."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.errors import BadInput
from atelier.home import Home
from commands.verb import Answer

if TYPE_CHECKING:
    from atelier.platform.jobs import JobOptions, Work
    from pipelines.submission import SubmittedJob

NAMESPACE = "atelier-training"


@dataclass(frozen=True)
class JobChoices:
    """Options for where and how a Job runs; a group of options (see commands.verb)."""

    queue: Annotated[str | None, typer.Option(help="LocalQueue of Kueue.")] = None
    priority: Annotated[
        str | None, typer.Option(help="WorkloadPriorityClass of Kueue; needs --queue.")
    ] = None
    gpus: Annotated[
        int | None,
        typer.Option(
            min=0,
            show_default=False,
            help="Number of GPUs. A training runs one batch on each; TensorRT always uses one.",
        ),
    ] = None
    gpu_kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Run only on nodes with nvidia.com/gpu.product=KIND."),
    ] = None
    namespace: Annotated[str, typer.Option(help="Namespace of the Job.")] = NAMESPACE
    image: Annotated[
        str | None,
        typer.Option(envvar="ATELIER_TRAIN_IMAGE", help="The atelier-train image, by digest."),
    ] = None
    volume: Annotated[
        str | None,
        typer.Option(metavar="CLAIM", help="Claim for checkpoints and inputs. Default: a new one."),
    ] = None
    volume_size: Annotated[str, typer.Option(help="Size of a new claim.")] = "50Gi"
    volume_class: Annotated[str | None, typer.Option(help="Storage class of a new claim.")] = None
    cpu: Annotated[str, typer.Option(help="CPUs to request.")] = "4"
    memory: Annotated[str, typer.Option(help="Memory request and limit.")] = "16Gi"
    deadline: Annotated[
        int,
        typer.Option(min=1, metavar="HOURS", help="Maximum run time of the Job; then it fails."),
    ] = 72
    follow: Annotated[
        bool, typer.Option("--follow", help="Show the Job's log, and exit with its exit code.")
    ] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the Job; upload and create nothing.")
    ] = False

    def options(self, gpus: int) -> "JobOptions":
        """The options of a Job with `gpus` GPUs. BadInput if no pod could run it."""
        from atelier.platform.jobs import JobOptions

        if self.image is None:
            raise BadInput("--image or ATELIER_TRAIN_IMAGE: not set; name the atelier-train image")
        if self.priority and not self.queue:
            raise BadInput("--priority: applies to a queue of Kueue; name the queue with --queue")
        if self.gpu_kind and not gpus:
            raise BadInput("--gpu-kind: needs GPUs; ask for them with --gpus")
        if Home.find().tracking_uri.startswith("sqlite:") and not self.dry_run:
            raise BadInput(
                "MLFLOW_TRACKING_URI: not set; name the MLflow that the cluster's Jobs use"
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


def manifest_answer(work: "Work", options: "JobOptions") -> Answer:
    """The Job object, for --dry-run."""
    from atelier.data import yaml_text
    from atelier.platform.jobs import job_object

    job = job_object(work, options)
    return Answer(yaml_text.write(job).rstrip(), job)


def job_data(job: "SubmittedJob") -> dict[str, Any]:
    """A submitted Job for --json."""
    data: dict[str, Any] = {
        "uploaded": list(job.uploaded),
        "job": job.name,
        "namespace": job.namespace,
        "created": job.created,
    }
    if job.outcome is not None:
        data |= {
            "succeeded": job.outcome.succeeded,
            "exit_code": job.outcome.exit_code,
            "reason": job.outcome.reason,
        }
    return data
