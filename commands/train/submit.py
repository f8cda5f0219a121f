"""`atelier submit`: upload the inputs of a recipe and train it in a Job on a cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.home import Home
from commands.command import Answer
from commands.github_actions import add_outputs
from commands.job_options import JobChoices, job_data, manifest_answer
from commands.terminal import print_progress, progress
from commands.train.verdict import reasons_of

if TYPE_CHECKING:
    from atelier.platform.jobs import TrainingSpec
    from pipelines.submission import TrainingResult


def submit(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file.")],
    environment: Annotated[
        str, typer.Option(help="Environment of the policy (ConfigMap policy-ENVIRONMENT).")
    ] = "staging",
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop the Job. A later Job resumes from its checkpoint.")
    ] = False,
    github_output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Append the adapter and its version, if one exists, to this file as step outputs.",
        ),
    ] = None,
    job: JobChoices = JobChoices(),
) -> Answer:
    """Train a recipe in a Job on a cluster.

    Uploads missing inputs and creates the Job. A second submission of the same inputs returns the
    existing Job. If a version with the same inputs exists, it is not trained again. If this version
    has no evaluation under the policy of the environment, the Job only evaluates it.
    """
    from atelier.data.recipe import Recipe

    options = job.options(job.gpus or 0)
    loaded_recipe = Recipe.load(recipe)

    # imported after the validation of the input, because the imports are slow
    from atelier.stores.artifacts import Artifacts
    from atelier.stores.registry import Registry
    from pipelines.submission import TrainingSubmission

    uri = Home.find().tracking_uri
    submission = TrainingSubmission(
        loaded_recipe,
        environment,
        options,
        artifacts=lambda: Artifacts(uri),
        registry=lambda: Registry(uri),
    )
    if job.dry_run:
        return manifest_answer(submission.work, options)
    if stop:
        return _stopped(submission.work.name, options.namespace, stopped=submission.stop())
    with progress() as report_progress:
        result = submission.submit(follow=job.follow, log=print_progress, progress=report_progress)
    if result.version is not None:
        outputs = {"adapter": submission.spec.adapter, "version": result.version.version}
        add_outputs(github_output, outputs)
    return _answer(result, submission.spec, environment)


def _stopped(name: str, namespace: str, *, stopped: bool) -> Answer:
    state = "stopped; its checkpoints are kept" if stopped else "neither running nor waiting"
    data = {"job": name, "namespace": namespace, "stopped": stopped}
    return Answer(f"Job {namespace}/{name}: {state}", data)


def _answer(result: "TrainingResult", spec: "TrainingSpec", environment: str) -> Answer:
    data: dict[str, Any] = {"adapter": spec.adapter, "spec": spec.digest}
    label = ""
    if result.version is not None:
        label = f"{result.version.name}@{result.version.version}"
        data["version"] = result.version.version
    if result.job is not None:
        text = f"{result.job}: {label}" if label else str(result.job)
        return Answer(text, {**data, **job_data(result.job)}, result.exit_code)
    data |= {"environment": environment, "job": None}
    lines = [f"{label} exists already; it was made from the same inputs"]
    if evaluation := result.evaluation:
        reasons = reasons_of(evaluation, label)
        lines[0] += f": {evaluation.decision} by the policy of {environment}"
        lines += [f"- {reason}" for reason in reasons]
        data |= {"accepted": evaluation.accepted, "reasons": list(reasons)}
    return Answer("\n".join(lines), data, result.exit_code)
