"""Work that ends, on a cluster: what a Job is made from, its object, its end."""

from atelier.jobs.compiling import CompilationSpec, image_identity
from atelier.jobs.following import Follower, Outcome
from atelier.jobs.job import JobOptions, Work, claim_object, job_object
from atelier.jobs.spec import SPEC_TAG
from atelier.jobs.submitting import stop_job, submit_job
from atelier.jobs.training import TrainingSpec, policy_of

__all__ = [
    "SPEC_TAG",
    "CompilationSpec",
    "Follower",
    "JobOptions",
    "Outcome",
    "TrainingSpec",
    "Work",
    "claim_object",
    "image_identity",
    "job_object",
    "policy_of",
    "stop_job",
    "submit_job",
]
