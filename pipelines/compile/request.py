"""The request for a compilation, from the command line or from a Job's spec.

This module does not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from atelier.errors import BadInput
from atelier.platform.jobs import CompilationSpec
from services.engine.settings import Precision, is_device

_SIZE: Final = re.compile(r"(\d+)x(\d+)")


@dataclass(frozen=True)
class CompileRequest:
    """The base to compile, and the options.

    Only TensorRT fixes batches, sizes, rank and slots, with the defaults of the engine. An ONNX
    graph takes any values. Raises BadInput for an invalid value, or an option that the backend
    lacks.
    """

    base: str
    revision: str | None = None
    backend: Literal["onnx", "tensorrt"] = "onnx"
    precision: str = "auto"
    device: str = "auto"
    batches: Sequence[int] = ()  # rows of one UNet call
    sizes: Sequence[tuple[int, int]] = ()  # width and height in pixels
    rank: int | None = None
    slots: int | None = None
    tensorrt: str | None = None  # folder of TensorRT's libraries, if its package is not installed

    def __post_init__(self) -> None:
        """Raise BadInput for an invalid value, or an option that the backend lacks."""
        if self.precision not in get_args(Precision):
            allowed = ", ".join(get_args(Precision))
            raise BadInput(f"precision {self.precision}: must be one of {allowed}")
        if not is_device(self.device):
            raise BadInput(f"device {self.device}: must be auto, cpu, cuda or cuda:N")
        fixed = (self.batches, self.sizes, self.rank, self.slots)
        if self.backend == "onnx" and any(fixed):
            raise BadInput(
                "batch, sizes, ranks, slots: only the backend tensorrt has these options; omit "
                "them, because an ONNX graph takes any values"
            )
        if any(count is not None and count < 1 for count in (*self.batches, self.rank, self.slots)):
            raise BadInput("batch, ranks, slots: must be at least 1")

    @classmethod
    def of_job(
        cls, spec: CompilationSpec, base: Path, *, tensorrt: str | None = None
    ) -> CompileRequest:
        """Return the request of a Job whose base is in the folder `base`."""
        return cls(
            str(base),
            backend=spec.backend,
            precision=spec.precision,
            batches=spec.batches,
            sizes=spec.sizes,
            rank=spec.rank,
            slots=spec.slots,
            tensorrt=tensorrt,
        )

    def job_gpus(self, requested: int | None) -> int:
        """Return the number of GPUs of the Job. Raises BadInput for a number that it cannot use."""
        tensorrt = self.backend == "tensorrt"
        gpus = int(tensorrt) if requested is None else requested
        if gpus > 1 or (tensorrt and not gpus):
            usable = "1" if tensorrt else "0 or 1"
            raise BadInput(
                f"--gpus {gpus}: a compilation for {self.backend} cannot use this number of GPUs; "
                f"set --gpus to {usable}"
            )
        return gpus

    def job_spec(
        self, base: str, image: str, *, gpus: int, gpu_kind: str | None
    ) -> CompilationSpec:
        """Return the spec of the Job, given the digests of base and image.

        `gpu_kind` is the kind of GPU that the Job requests. Raises BadInput for a precision that
        no compiled UNet supports.
        """
        if self.precision not in ("auto", "fp32", "fp16"):
            raise BadInput(
                f"precision {self.precision}: no compiled UNet supports it; use fp16 or fp32"
            )
        half = self.precision == "fp16" or (self.precision == "auto" and gpus > 0)
        return CompilationSpec(
            base=base,
            backend=self.backend,
            precision="fp16" if half else "fp32",
            batches=tuple(sorted(set(self.batches))),
            sizes=tuple(sorted(set(self.sizes))),
            rank=self.rank,
            slots=self.slots,
            gpu_kind=gpu_kind,
            image=image,
        )


def parse_sizes(texts: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Parse widths and heights in pixels, such as `1024x1024`. Raises BadInput for other text."""
    sizes = []
    for text in texts:
        match = _SIZE.fullmatch(text)
        if match is None:
            raise BadInput(f"size {text}: must be WIDTHxHEIGHT in pixels, for example 1024x1024")
        sizes.append((int(match[1]), int(match[2])))
    return tuple(sizes)
