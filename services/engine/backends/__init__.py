"""Who computes the UNet: one protocol, one file each."""

from __future__ import annotations

from services.engine.backends.protocol import Backend
from services.engine.backends.torch import TorchBackend
from services.engine.base import Base
from services.engine.layout import Layout

BACKENDS = {"torch": TorchBackend}


def make_backend(name: str, base: Base, layout: Layout) -> Backend:
    """The backend of a name that EngineSettings takes."""
    return BACKENDS[name](base, layout)
