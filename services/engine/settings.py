"""How large an engine is; checked when it is made. Needs torch only to name a device or format."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from atelier.errors import BadInput

if TYPE_CHECKING:
    import torch

BACKENDS: Final = ("torch", "onnx", "tensorrt")  # each a file of backends/
PRECISIONS: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # torch's names
_COUNTS = ("slots", "max_rank", "inflight", "queue", "patience", "decode_batch")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class EngineSettings:
    """Bounds of one engine. Memory grows with slots × max_rank; latency with max_batch."""

    slots: int = 8  # adapters (or weighted mixtures) in one batch
    max_rank: int = 64  # of one slot, all of a request's adapters together
    max_batch: int = 8  # UNet rows in one call; an image with guidance takes two
    inflight: int = 16  # images being drawn at a time
    queue: int = 64  # requests waiting beyond those
    patience: int = 4  # UNet calls an image may be left out of before it goes first
    decode_batch: int = 4  # images in one VAE call
    max_side: int = 2048  # pixels
    host_memory: int = 8 * 2**30  # bytes of adapters in host memory
    embeddings: int = 256  # encoded prompts remembered
    device: str = "auto"  # auto, cpu, cuda, cuda:N
    precision: str = "auto"  # auto is fp16 on CUDA and fp32 elsewhere
    backend: str = "torch"
    compiled: str | None = None  # the folder of the UNet that onnx and tensorrt run

    def __post_init__(self) -> None:
        """Raises ValueError: the field, a colon, and what it must be."""
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1")
        if self.max_batch < 2:
            raise ValueError("max_batch: must be at least 2, for guidance takes two rows")
        if not _DEVICE.fullmatch(self.device):
            raise ValueError("device: must be auto, cpu, cuda or cuda:N")
        if self.precision not in ("auto", *PRECISIONS):
            raise ValueError(f"precision: must be one of auto, {', '.join(PRECISIONS)}")
        if self.backend not in BACKENDS:
            raise ValueError(f"backend: must be one of {', '.join(BACKENDS)}")

    def torch_device(self) -> torch.device:
        """The device meant by `device`; BadInput where this machine has none such."""
        import torch

        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        device = torch.device(self.device)
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise BadInput(
                f"device {self.device}: torch sees {torch.cuda.device_count()} GPUs here; "
                "use auto or cpu"
            )
        return device

    def torch_dtype(self) -> torch.dtype:
        """The number format meant by `precision`."""
        import torch

        if self.precision == "auto":
            return torch.float16 if self.torch_device().type == "cuda" else torch.float32
        dtype: torch.dtype = getattr(torch, PRECISIONS[self.precision])
        return dtype


def precision_of(dtype: torch.dtype) -> str:
    """The settings' name of a number format."""
    name = str(dtype).removeprefix("torch.")
    return next(short for short, long in PRECISIONS.items() if long == name)
