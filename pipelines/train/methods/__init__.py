"""Training methods. Each file defines the trainable parameters, the samples and the loss."""

from pipelines.train.methods.dreambooth import DreamBooth
from pipelines.train.methods.method import Loss, Method

METHODS: dict[str, type[Method]] = {"dreambooth": DreamBooth}

__all__ = ["METHODS", "Loss", "Method"]
