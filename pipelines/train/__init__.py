"""Trains an adapter package from a recipe and its pictures; a killed run can be resumed.

Names are imported on first access, so that an invalid recipe is reported before torch is loaded.
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
