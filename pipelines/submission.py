"""Submits trainings and compilations to a cluster. Equal inputs give one Job.

If a version or a compiled engine from equal inputs exists, it is returned and no Job is created.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from atelier.data.names import ArtifactRef
from atelier.data.recipe import Recipe
from atelier.errors import BadInput, ExitCode
from atelier.platform import Api
from atelier.platform.jobs import (
    SPEC_TAG,
    Follower,
    JobOptions,
    JobOutcome,
    TrainingSpec,
    Work,
    image_identity,
    policy_of,
    stop_job,
    submit_job,
)
from atelier.stores.artifacts import Artifacts, Progress
from atelier.stores.registry import Registry, VersionInfo
from pipelines.compile.request import CompileRequest
from pipelines.dataset import check_pictures
from pipelines.evaluate import Evaluation, evaluation_under
from pipelines.job_inputs import find_base, pack, put, upload
from pipelines.train.run_folder import commit_of


@dataclass(frozen=True)
class SubmittedJob:
    """A Job on the cluster, and its outcome if it was followed to its end."""

    name: str
    namespace: str
    created: bool  # False: an earlier submission created it
    uploaded: Sequence[str]  # addresses of the inputs that this submission uploaded
    outcome: JobOutcome | None = None

    def __str__(self) -> str:
        if self.outcome is None:
            state = "created" if self.created else "exists already"
        else:
            state = "done" if self.outcome.succeeded else f"failed ({self.outcome.reason})"
        return f"Job {self.namespace}/{self.name}: {state}"

    @property
    def exit_code(self) -> int:
        """The exit code of the Job's container; DONE if the Job was not followed."""
        return self.outcome.exit_code if self.outcome else ExitCode.DONE


@dataclass(frozen=True)
class TrainingResult:
    """A submitted training: its Job, its version, or both.

    If an earlier training made the version, `evaluation` is its evaluation for the environment.
    """

    version: VersionInfo | None
    evaluation: Evaluation | None = None
    job: SubmittedJob | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of the Job, or REFUSED if the verdict refuses the earlier version."""
        if self.job is not None:
            return self.job.exit_code
        return ExitCode.of_verdict(self.evaluation is None or self.evaluation.accepted)


class TrainingSubmission:
    """The training of one recipe for an environment.

    Raises DatasetError if the pictures cannot be trained on, and BaseError if the base is unknown.
    """

    def __init__(
        self,
        recipe: Recipe,
        environment: str,
        options: JobOptions,
        *,
        artifacts: Callable[[], Artifacts],
        registry: Callable[[], Registry],
    ):
        check_pictures(recipe)
        self._inputs = pack(recipe, artifacts, processes=max(1, options.gpus))
        self._environment, self._options = environment, options
        self._artifacts, self._registry = artifacts, registry
        self.spec = self._inputs.spec
        self.work = self.spec.work(environment, commit=commit_of(recipe.folder))

    def stop(self) -> bool:
        """Stop the Job of the training; return whether there was one.

        A later Job resumes from the checkpoint.
        """
        return stop_job(self._connect(), self.work)

    def submit(
        self, *, follow: bool, log: Callable[[str], None], progress: Progress
    ) -> TrainingResult:
        """Upload missing inputs and create the Job, unless an evaluated version exists.

        With `follow`, wait for the Job's end; `log` receives its output. Raises Unavailable if the
        cluster or the registry is unreachable.
        """
        earlier = earlier_result(self.spec, self._environment, self._registry(), self._connect)
        if earlier is not None:
            return earlier
        uploaded = upload(self._inputs, self._artifacts(), progress)
        job = _send(self._connect(), self.work, self._options, uploaded, follow=follow, log=log)
        ended = job.outcome is not None and job.exit_code in (ExitCode.DONE, ExitCode.REFUSED)
        version = _version(self.spec, self._registry()) if ended else None
        return TrainingResult(version, job=job)

    def _connect(self) -> Api:
        return Api.connect(self._options.namespace)


def earlier_result(
    spec: TrainingSpec, environment: str, registry: Registry, connect: Callable[[], Api]
) -> TrainingResult | None:
    """Return a version from equal inputs that was evaluated under the environment's policy.

    Return None if there is no such version, or if the policy cannot be read on this machine. The
    Job's pod then reports the missing policy.
    """
    version = _version(spec, registry)
    policy = policy_of(connect(), environment) if version else None
    if version is None or policy is None:
        return None
    evaluation = evaluation_under(registry, version, policy.digest)
    return None if evaluation is None else TrainingResult(version, evaluation)


def _version(spec: TrainingSpec, registry: Registry) -> VersionInfo | None:
    """Return the version from equal inputs, evaluated or not."""
    return registry.made_from(spec.adapter, SPEC_TAG, spec.digest)


@dataclass(frozen=True)
class CompilationResult:
    """A submitted compilation: its Job, its compiled engine, or both."""

    engine: ArtifactRef | None
    job: SubmittedJob | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of the Job; DONE if there is no Job."""
        return self.job.exit_code if self.job else ExitCode.DONE


class CompilationSubmission:
    """The compilation of one base on a cluster. Raises BaseError if the base is unknown."""

    def __init__(
        self, request: CompileRequest, options: JobOptions, *, artifacts: Callable[[], Artifacts]
    ):
        self._options, self._artifacts = options, artifacts
        self.base, self._contents = find_base(request.base, request.revision, artifacts)
        self.spec = request.job_spec(
            self.base,
            image_identity(options.image),
            gpus=options.gpus,
            gpu_kind=options.gpu_kind,
        )
        self.work = self.spec.work()

    def submit(
        self, *, follow: bool, log: Callable[[str], None], progress: Progress
    ) -> CompilationResult:
        """Upload the base if it is missing and create the Job, unless the engine exists.

        With `follow`, wait for the Job's end; `log` receives its output. Raises Unavailable if the
        cluster or the registry is unreachable, and BadInput if the engine of an earlier Job has
        been deleted.
        """
        engine = self._engine()
        if engine is not None:
            return CompilationResult(engine)
        uploaded = put(self._contents, self._artifacts(), progress)
        api = Api.connect(self._options.namespace)
        job = _send(api, self.work, self._options, uploaded, follow=follow, log=log)
        if job.outcome is None or job.exit_code:
            return CompilationResult(None, job)
        engine = self._engine()
        if engine is None:
            raise BadInput(
                f"{job}, but MLflow no longer has its engine; delete this Job and submit the "
                "compilation again"
            )
        return CompilationResult(engine, job)

    def _engine(self) -> ArtifactRef | None:
        return self._artifacts().made_from("engines", self.spec.digest)


def _send(
    api: Api,
    work: Work,
    options: JobOptions,
    uploaded: Sequence[str],
    *,
    follow: bool,
    log: Callable[[str], None],
) -> SubmittedJob:
    manifest, created = submit_job(api, work, options)
    name = str(manifest["metadata"]["name"])
    job = SubmittedJob(name, options.namespace, created, uploaded)
    if not follow:
        return job
    log(str(job))
    outcome = Follower(api, name, log).follow()
    return SubmittedJob(name, options.namespace, created, uploaded, outcome)
