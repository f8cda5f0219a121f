"""The diffusion engine: a library that uses neither the network nor Kubernetes.

Serving, training and evaluation use the same engine, so an evaluation measures the images that will
be served. The names below are imported on first access, so that importing `slots`, `scheduling` or
`request_queue` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from atelier.imports import collection_paused

if TYPE_CHECKING:
    from atelier.contract.info import UsedAdapter
    from atelier.contract.request import AdapterUse, ImageRequest, RequestError
    from services.engine.base import Base, load_base
    from services.engine.engine import Engine
    from services.engine.result import (
        Cancelled,
        DeadlineExceeded,
        Diverged,
        ImageResult,
        QueueFull,
        UnknownAdapter,
    )
    from services.engine.settings import EngineSettings
    from services.engine.store import AdapterInfo
    from services.engine.volume import VolumeWatcher

_HOMES = {
    "atelier.contract.info": ("UsedAdapter",),
    "atelier.contract.request": ("AdapterUse", "ImageRequest", "RequestError"),
    "services.engine.base": ("Base", "load_base"),
    "services.engine.engine": ("Engine",),
    "services.engine.result": (
        "Cancelled",
        "DeadlineExceeded",
        "Diverged",
        "ImageResult",
        "QueueFull",
        "UnknownAdapter",
    ),
    "services.engine.settings": ("EngineSettings",),
    "services.engine.store": ("AdapterInfo",),
    "services.engine.volume": ("VolumeWatcher",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AdapterInfo",
    "AdapterUse",
    "Base",
    "Cancelled",
    "DeadlineExceeded",
    "Diverged",
    "Engine",
    "EngineSettings",
    "ImageRequest",
    "ImageResult",
    "QueueFull",
    "RequestError",
    "UnknownAdapter",
    "UsedAdapter",
    "VolumeWatcher",
    "load_base",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with collection_paused():
        return getattr(import_module(_HOME[name]), name)
