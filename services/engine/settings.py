"""The settings of an engine, from its caller or `ATELIER_*` variables (docs/settings.md).

torch is imported only by `torch_device` and `torch_dtype`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field, field_validator

from atelier.contract.limits import MIN_SIDE
from atelier.errors import BadInput
from atelier.settings import Settings

if TYPE_CHECKING:
    import torch

BACKENDS: Final = ("torch", "onnx", "tensorrt")  # each has a module in backends/
PRECISIONS: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # torch's names
Precision = Literal["auto", "fp32", "fp16", "bf16"]
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")

_Count = Annotated[int, Field(ge=1)]


class EngineSettings(Settings):
    """Limits of one engine. Memory grows with slots × max_rank, latency with max_batch."""

    slots: _Count = Field(
        default=8, description="Maximum number of adapters, or weighted mixtures, in one batch"
    )
    max_rank: _Count = Field(
        default=64, description="Maximum total rank of the adapters of one request"
    )
    max_batch: Annotated[int, Field(ge=2)] = Field(
        default=8,
        description="Maximum number of rows in one UNet call; an image with guidance needs two",
    )
    inflight: _Count = Field(default=16, description="Maximum number of images in progress")
    queue: _Count = Field(default=64, description="Maximum number of waiting requests")
    patience: _Count = Field(
        default=4,
        validation_alias="ATELIER_MAX_SKIPPED_STEPS",
        description="Consecutive UNet calls that may skip an image; it then goes first",
    )
    decode_batch: _Count = Field(
        default=4, description="Maximum number of images in one call of the VAE"
    )
    max_side: Annotated[int, Field(ge=MIN_SIDE)] = Field(
        default=2048, description="Maximum side of an image, in pixels"
    )
    host_memory: _Count = Field(
        default=8 * 2**30, description="Maximum host memory for adapters, in bytes"
    )
    embeddings: Annotated[int, Field(ge=0)] = Field(
        default=256, description="Number of encoded prompts to keep"
    )
    device: str = Field(default="auto", description="`auto`, `cpu`, `cuda` or `cuda:N`")
    precision: Precision = Field(
        default="auto", description="Number format; `auto` is `fp16` on CUDA and `fp32` elsewhere"
    )
    backend: Literal["torch", "onnx", "tensorrt"] = Field(
        default="torch", description="Runtime of the UNet: `torch`, `onnx` or `tensorrt`"
    )
    compiled: str | None = Field(
        default=None, description="Folder of the compiled UNet that `onnx` and `tensorrt` run"
    )
    tensorrt: str | None = Field(
        default=None,
        description="Folder of TensorRT's libraries, if no Python package contains them",
    )

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not is_device(device):
            raise ValueError("must be auto, cpu, cuda or cuda:N")
        return device

    def torch_device(self) -> torch.device:
        """Return the torch device of `device`. Raises BadInput if this machine does not have it."""
        import torch

        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        device = torch.device(self.device)
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise BadInput(
                f"device {self.device}: torch finds {torch.cuda.device_count()} GPUs on this "
                "machine; use auto or cpu"
            )
        return device

    def torch_dtype(self) -> torch.dtype:
        """Return the torch dtype of `precision`."""
        import torch

        if self.precision == "auto":
            return torch.float16 if self.torch_device().type == "cuda" else torch.float32
        dtype: torch.dtype = getattr(torch, PRECISIONS[self.precision])
        return dtype


class SampleSettings(Settings):
    """The pictures that a serving engine samples for live scores (docs/promotion.md)."""

    sample_share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        default=0.0,
        description="Share of the images with one adapter that are stored for live scores, with "
        "their prompts; 0 stores none",
    )
    sample_keep: _Count = Field(
        default=64,
        description="Maximum number of stored images of one version on the volume; the oldest are "
        "removed",
    )


def is_device(name: str) -> bool:
    """Return whether the setting `device` accepts this name. The machine may lack the device."""
    return _DEVICE.fullmatch(name) is not None


def precision_of(dtype: torch.dtype) -> str:
    """Return the name of a dtype in the settings, such as `fp16`."""
    torch_name = str(dtype).removeprefix("torch.")
    return next(precision for precision, name in PRECISIONS.items() if name == torch_name)
