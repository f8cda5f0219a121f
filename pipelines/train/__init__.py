"""From a recipe and its pictures to an adapter package, in a run that can be killed at any step.

Names are imported when they are asked for: a wrong recipe is told without waiting for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from atelier.imports import collection_paused

if TYPE_CHECKING:
    from pipelines.train.trainer import TrainResult, train, trained_in

__all__ = ["TrainResult", "train", "trained_in"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with collection_paused():
        return getattr(import_module("pipelines.train.trainer"), name)
