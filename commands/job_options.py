"""Options and output of a Job, for `atelier submit` and `atelier compile --submit`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.errors import BadInput
from atelier.home import Home
from commands.command import Answer

if TYPE_CHECKING:
    from atelier.platform.jobs import JobOptions, Work
    from pipelines.submission import SubmittedJob

NAMESPACE = "atelier-training"


@dataclass(frozen=True)
class JobChoices:
    """The option group of a Job: its queue, resources, volume and image (see commands.command)."""

    queue: Annotated[str | None, typer.Option(help="Kueue LocalQueue.")] = None
    priority: Annotated[
        str | None, typer.Option(help="Kueue WorkloadPriorityClass; requires --queue.")
    ] = None
    gpus: Annotated[
        int | None,
        typer.Option(
            min=0,
            show_default=False,
            help="Number of GPUs. Training runs one process per GPU; TensorRT needs one GPU.",
        ),
    ] = None
    gpu_kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Run only on nodes with nvidia.com/gpu.product=KIND."),
    ] = None
    namespace: Annotated[str, typer.Option(help="Namespace of the Job.")] = NAMESPACE
    image: Annotated[
        str | None,
        typer.Option(envvar="ATELIER_TRAIN_IMAGE", help="Image atelier-train, by digest."),
    ] = None
    volume: Annotated[
        str | None,
        typer.Option(
            metavar="CLAIM", help="Volume claim for checkpoints and inputs. Default: a new one."
        ),
    ] = None
    volume_size: Annotated[str, typer.Option(help="Size of a new volume claim.")] = "50Gi"
    volume_class: Annotated[
        str | None, typer.Option(help="Storage class of a new volume claim.")
    ] = None
    cpu: Annotated[str, typer.Option(help="CPU request.")] = "4"
    memory: Annotated[str, typer.Option(help="Memory request and limit.")] = "16Gi"
    deadline: Annotated[
        int,
        typer.Option(min=1, metavar="HOURS", help="Maximum run time, after which the Job fails."),
    ] = 72
    follow: Annotated[
        bool, typer.Option("--follow", help="Show the log of the Job and exit with its exit code.")
    ] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the Job; upload and create nothing.")
    ] = False

    def options(self, gpus: int) -> "JobOptions":
        """Return the options of a Job with `gpus` GPUs.

        Raises BadInput if an option is missing or options contradict each other.
        """
        from atelier.platform.jobs import JobOptions

        if self.image is None:
            raise BadInput("--image, ATELIER_TRAIN_IMAGE: not set; give the image atelier-train")
        if self.priority and not self.queue:
            raise BadInput("--priority: requires a Kueue queue; name the queue with --queue")
        if self.gpu_kind and not gpus:
            raise BadInput("--gpu-kind: the Job has no GPUs; request GPUs with --gpus")
        if Home.find().tracking_uri.startswith("sqlite:") and not self.dry_run:
            raise BadInput(
                "MLFLOW_TRACKING_URI: not set, or an SQLite file; set it to the address of MLflow "
                "that the Jobs of the cluster use"
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
    """Return the Job object, for --dry-run."""
    from atelier.data import yaml_text
    from atelier.platform.jobs import job_object

    job = job_object(work, options)
    return Answer(yaml_text.write(job).rstrip(), job)


def job_data(job: "SubmittedJob") -> dict[str, Any]:
    """Return the --json fields of a submitted Job."""
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
