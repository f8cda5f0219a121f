"""The ways to train: each file says what is trainable, what a sample is and what the loss is."""

from pipelines.train.methods.dreambooth import DreamBooth
from pipelines.train.methods.method import Loss, Method

METHODS: dict[str, type[Method]] = {"dreambooth": DreamBooth}

__all__ = ["METHODS", "Loss", "Method"]
