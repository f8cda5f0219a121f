"""The UNet backends: one protocol, and one module per backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from atelier.errors import BadInput
from services.engine.backends.compiled import Compiled
from services.engine.backends.protocol import Backend
from services.engine.backends.torch import TorchBackend
from services.engine.base import Base
from services.engine.layout import Layout
from services.engine.settings import EngineSettings, precision_of


def make_backend(settings: EngineSettings, base: Base, layout: Layout) -> Backend:
    """Create the backend of `settings.backend`.

    Raises BadInput if the backend cannot run on this machine, or if the compiled UNet was compiled
    for another base, precision, bank or GPU.
    """
    return BACKENDS[settings.backend](settings, base, layout)


def _torch(settings: EngineSettings, base: Base, layout: Layout) -> Backend:
    return TorchBackend(base, layout)


def _onnx(settings: EngineSettings, base: Base, layout: Layout) -> Backend:
    from services.engine.backends.onnxruntime import OnnxBackend

    return OnnxBackend(_compiled(settings, base), layout, base.device)


def _tensorrt(settings: EngineSettings, base: Base, layout: Layout) -> Backend:
    from services.engine.backends.tensorrt import TensorRTBackend

    compiled = _compiled(settings, base)
    return TensorRTBackend(
        compiled,
        layout,
        device=base.device,
        slots=settings.slots,
        rank=settings.max_rank,
        libraries=settings.tensorrt,
    )


BACKENDS: Mapping[str, Callable[[EngineSettings, Base, Layout], Backend]] = {
    "torch": _torch,
    "onnx": _onnx,
    "tensorrt": _tensorrt,
}


def _compiled(settings: EngineSettings, base: Base) -> Compiled:
    """Open the compiled UNet of the settings and check it against the base."""
    if settings.compiled is None:
        raise BadInput(
            f"backend {settings.backend}: needs a UNet compiled for this base; set "
            "ATELIER_COMPILED to its folder, and create one with `atelier compile`"
        )
    compiled = Compiled.open(Path(settings.compiled))
    precision = precision_of(base.dtype)
    compiled.check(backend=settings.backend, base=base.digest, precision=precision)
    return compiled
