"""Work that ends, on a cluster: what a training Job is made from, its object, its end."""

from atelier.jobs.following import Follower, Outcome
from atelier.jobs.job import JobOptions, training_claim, training_job
from atelier.jobs.spec import SPEC_TAG, TrainingSpec
from atelier.jobs.submitting import submit_training

__all__ = [
    "SPEC_TAG",
    "Follower",
    "JobOptions",
    "Outcome",
    "TrainingSpec",
    "submit_training",
    "training_claim",
    "training_job",
]
