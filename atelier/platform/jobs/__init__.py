"""Jobs on a cluster: specs, manifests, submission and output."""

from atelier.platform.jobs.compilation import CompilationSpec, image_identity
from atelier.platform.jobs.follower import Follower, JobOutcome
from atelier.platform.jobs.job_manifest import JobOptions, Work, claim_object, job_object
from atelier.platform.jobs.spec import SPEC_TAG
from atelier.platform.jobs.submission import stop_job, submit_job
from atelier.platform.jobs.training import TrainingSpec, policy_of

__all__ = [
    "SPEC_TAG",
    "CompilationSpec",
    "Follower",
    "JobOptions",
    "JobOutcome",
    "TrainingSpec",
    "Work",
    "claim_object",
    "image_identity",
    "job_object",
    "policy_of",
    "stop_job",
    "submit_job",
]
