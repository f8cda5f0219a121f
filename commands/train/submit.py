"""`atelier submit`: train a recipe in a Job on a cluster, with everything that it names."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.home import Home
from commands.admin.job_options import JobChoices, sent, shown
from commands.ci.outputs import add_outputs
from commands.verb import Answer

if TYPE_CHECKING:
    from atelier.platform.jobs import TrainingSpec, Work
    from atelier.stores.registry import VersionInfo

REFUSED = 1


def submit(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe.")],
    environment: Annotated[
        str, typer.Option(help="Environment whose policy judges: ConfigMap policy-ENVIRONMENT.")
    ] = "staging",
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop its Job. A later one resumes from the checkpoint.")
    ] = False,
    github_output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append adapter and version, if known, as step outputs."),
    ] = None,
    job: JobChoices = JobChoices(),
) -> Answer:
    """Train a recipe on a cluster: upload missing inputs and create the Job.

    Submitting the same inputs twice gives one Job. A version that was already made from them is not
    trained again. If the environment's policy has not judged it yet, the Job only judges it.
    """
    from atelier.data.recipe import Recipe
    from pipelines.train.commit import commit_of

    gpus = job.gpus or 0
    options = job.options(gpus)
    found = Recipe.load(recipe)
    from commands.admin.import_models import open_artifacts
    from commands.progress import progress
    from pipelines.dataset import check_pictures
    from pipelines.job_inputs import pack, upload

    check_pictures(found)
    parcel = pack(found, open_artifacts, processes=max(1, gpus))
    spec = parcel.spec
    work = spec.work(environment, commit=commit_of(found.folder))
    if job.dry_run:
        return shown(work, options)
    if stop:
        return _stopped(work, options.namespace)
    answer = _made(spec, environment, options.namespace)
    if answer is None:
        with progress() as told:
            uploaded = upload(parcel, open_artifacts(), told)
        about = {"adapter": spec.adapter, "spec": spec.digest, "uploaded": uploaded}
        answer = sent(work, options, about, follow=job.follow)
        if job.follow and answer.exit_code in (0, REFUSED):
            answer = _with_version(answer, spec)
    if "version" in answer.data:
        add_outputs(github_output, {key: answer.data[key] for key in ("adapter", "version")})
    return answer


def _stopped(work: "Work", namespace: str) -> Answer:
    from atelier.platform import Api
    from atelier.platform.jobs import stop_job

    stopped = stop_job(Api.connect(namespace), work)
    said = "stopped, its checkpoints are kept" if stopped else "is not running or waiting"
    data = {"job": work.name, "namespace": namespace, "stopped": stopped}
    return Answer(f"Job {namespace}/{work.name}: {said}", data)


def _with_version(answer: Answer, spec: "TrainingSpec") -> Answer:
    """Add the version that an ended Job made, if there is one."""
    found = _version(spec)
    if found is None:
        return answer
    text = f"{answer.text}: {found.name}@{found.version}"
    return replace(answer, text=text, data={**answer.data, "version": found.version})


def _version(spec: "TrainingSpec") -> "VersionInfo | None":
    from atelier.platform.jobs import SPEC_TAG
    from commands.adapter_references import open_registry

    return open_registry(Home.find()).made_from(spec.adapter, SPEC_TAG, spec.digest)


def _made(spec: "TrainingSpec", environment: str, namespace: str) -> Answer | None:
    """The environment's verdict on an existing version made from the same inputs, or None."""
    from atelier.platform import Api
    from atelier.platform.jobs import policy_of
    from commands.adapter_references import open_registry
    from pipelines.evaluate import attested_evaluation

    known = _version(spec)
    policy = policy_of(Api.connect(namespace), environment) if known else None
    if known is None or policy is None:
        return None
    judged = attested_evaluation(open_registry(Home.find()), known, policy.digest)
    if judged is None or judged.policy != policy.digest:
        return None
    said = f"{'accepted' if judged.accepted else 'refused'} by the policy of {environment}"
    lines = [f"{spec.adapter}@{known.version} exists already, made from the same inputs: {said}"]
    lines += [f"- {reason}" for reason in judged.reasons]
    about = {
        "adapter": spec.adapter,
        "spec": spec.digest,
        "version": known.version,
        "environment": environment,
        "accepted": judged.accepted,
        "reasons": list(judged.reasons),
        "job": None,
    }
    return Answer("\n".join(lines), about, 0 if judged.accepted else REFUSED)
