"""`atelier submit`: a recipe becomes a training Job on a cluster, with everything it names."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from atelier.errors import BadInput
from atelier.home import Home
from commands.verb import Answer

if TYPE_CHECKING:
    from atelier.jobs import JobOptions, TrainingSpec

NAMESPACE = "atelier-training"


def submit(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe.yaml.")],
    queue: Annotated[str | None, typer.Option(help="Kueue's LocalQueue to wait in.")] = None,
    priority: Annotated[
        str | None, typer.Option(help="Kueue's WorkloadPriorityClass; wants --queue.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of the pool; each takes a batch.")] = 0,
    environment: Annotated[
        str, typer.Option(help="Whose policy judges: ConfigMap policy-ENVIRONMENT.")
    ] = "staging",
    namespace: Annotated[str, typer.Option(help="Where the Job runs.")] = NAMESPACE,
    image: Annotated[
        str | None, typer.Option(envvar="ATELIER_TRAIN_IMAGE", help="atelier-train, by digest.")
    ] = None,
    volume: Annotated[
        str | None,
        typer.Option(metavar="CLAIM", help="For checkpoints; else one of its own."),
    ] = None,
    volume_size: Annotated[str, typer.Option(help="Of a claim of its own.")] = "50Gi",
    volume_class: Annotated[str | None, typer.Option(help="Storage class of such a claim.")] = None,
    cpu: Annotated[str, typer.Option(help="CPUs to request.")] = "4",
    memory: Annotated[str, typer.Option(help="Memory to request, and the limit.")] = "16Gi",
    follow: Annotated[
        bool, typer.Option("--follow", help="Show what it says, and end with its verdict.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the Job; upload and create nothing.")
    ] = False,
) -> Answer:
    """Train a recipe on a cluster: upload what is missing, and make its Job.

    Submitting the same twice is one Job; what was made from the same before is found, not repeated.
    """
    from atelier.jobs import JobOptions, training_job
    from atelier.recipe import Recipe
    from pipelines.train.commit import commit_of

    if image is None:
        raise BadInput("--image or ATELIER_TRAIN_IMAGE: name the atelier-train image")
    if priority and not queue:
        raise BadInput("--priority: is Kueue's; name the queue with --queue")
    if Home.find().tracking_uri.startswith("sqlite:") and not dry_run:
        raise BadInput(
            "MLFLOW_TRACKING_URI: not set; name the MLflow that the cluster's Jobs fetch from"
        )
    found = Recipe.load(recipe)
    options = JobOptions(
        namespace=namespace,
        environment=environment,
        image=image,
        gpus=gpus,
        queue=queue,
        priority=priority,
        volume=volume,
        volume_size=volume_size,
        volume_class=volume_class,
        cpu=cpu,
        memory=memory,
        commit=commit_of(found.folder),
    )
    from commands.base import open_artifacts
    from commands.progress import progress
    from pipelines.dataset import check_pictures
    from pipelines.parcel import pack, upload

    check_pictures(found)
    parcel = pack(found, open_artifacts, processes=max(1, gpus))
    spec = parcel.spec
    if dry_run:
        text = yaml.safe_dump(training_job(spec, options), sort_keys=False)
        return Answer(text.rstrip(), training_job(spec, options))
    known = _made(spec)
    if known is not None:
        return known
    with progress() as shown:
        uploaded = upload(parcel, open_artifacts(), shown)
    return _submitted(spec, options, uploaded, follow=follow)


def _made(spec: "TrainingSpec") -> Answer | None:
    """What there is to say where a version was made from the same digests."""
    from atelier.jobs import SPEC_TAG
    from commands.sources import open_registry
    from pipelines.evaluate import FILE, Evaluation

    registry = open_registry(Home.find())
    known = registry.made_from(spec.adapter, SPEC_TAG, spec.digest)
    data = registry.attestation(spec.adapter, known.version, FILE) if known else None
    if known is None or data is None:
        return None
    judged = Evaluation.parse(data)
    said = "accepted" if judged.accepted else "refused"
    lines = [f"{spec.adapter}@{known.version} was made from the same already: {said}"]
    lines += [f"- {reason}" for reason in judged.reasons]
    about = {
        "adapter": spec.adapter,
        "spec": spec.digest,
        "version": known.version,
        "accepted": judged.accepted,
        "reasons": list(judged.reasons),
        "job": None,
    }
    return Answer("\n".join(lines), about, 0 if judged.accepted else 1)


def _submitted(
    spec: "TrainingSpec", options: "JobOptions", uploaded: list[str], *, follow: bool
) -> Answer:
    """The Job, made now or earlier, and with `follow` its end."""
    from atelier.cluster import Api
    from atelier.jobs import Follower, submit_training

    api = Api.connect(options.namespace)
    job, created = submit_training(api, spec, options)
    name = str(job["metadata"]["name"])
    said = f"Job {options.namespace}/{name}: {'created' if created else 'was there already'}"
    about: dict[str, Any] = {
        "adapter": spec.adapter,
        "spec": spec.digest,
        "job": name,
        "namespace": options.namespace,
        "created": created,
        "uploaded": uploaded,
    }
    if not follow:
        return Answer(said, about)
    print(said, file=sys.stderr)
    outcome = Follower(api, name, lambda line: print(line, file=sys.stderr, flush=True)).follow()
    about |= {
        "succeeded": outcome.succeeded,
        "exit_code": outcome.exit_code,
        "reason": outcome.reason,
    }
    ended = "done" if outcome.succeeded else f"failed ({outcome.reason})"
    return Answer(f"Job {options.namespace}/{name}: {ended}", about, outcome.exit_code)
