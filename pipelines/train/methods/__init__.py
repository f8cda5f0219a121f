"""Training methods. The module of a method defines its trainable parameters, samples and loss."""

from pipelines.train.methods.dreambooth import DreamBooth
from pipelines.train.methods.method import Loss, Method

METHODS: dict[str, type[Method]] = {"dreambooth": DreamBooth}

__all__ = ["METHODS", "Loss", "Method"]
