"""From a recipe and its pictures to an adapter package, in a run that can be killed at any step."""

from pipelines.train.job import TrainResult, train

__all__ = ["TrainResult", "train"]
