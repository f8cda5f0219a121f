"""The diffusion engine: a library with no network and no Kubernetes.

What is judged is made by what serves, so pipelines draw with it too. Names are imported when they
are asked for: the modules that only decide (slots, scheduling, requests) need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.engine.base import Base, load_base
    from services.engine.engine import Engine
    from services.engine.request import (
        AdapterUse,
        AdapterUsed,
        Cancelled,
        DeadlineExceeded,
        Diverged,
        ImageRequest,
        ImageResult,
        QueueFull,
        RequestError,
        UnknownAdapter,
    )
    from services.engine.settings import EngineSettings
    from services.engine.store import AdapterInfo
    from services.engine.volume import VolumeWatcher

_HOMES = {
    "base": ("Base", "load_base"),
    "engine": ("Engine",),
    "request": (
        "AdapterUse",
        "AdapterUsed",
        "Cancelled",
        "DeadlineExceeded",
        "Diverged",
        "ImageRequest",
        "ImageResult",
        "QueueFull",
        "RequestError",
        "UnknownAdapter",
    ),
    "settings": ("EngineSettings",),
    "store": ("AdapterInfo",),
    "volume": ("VolumeWatcher",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AdapterInfo",
    "AdapterUse",
    "AdapterUsed",
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
    "VolumeWatcher",
    "load_base",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
