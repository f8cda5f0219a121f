"""What to compile, as a person asks for it and as a Job on a cluster gets it. Needs no torch."""

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
    """What to compile.

    Batches, sizes, rank and slots are TensorRT's, with defaults; an ONNX graph takes any.
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
    tensorrt: str | None = None  # the folder of its libraries, where no package brings them

    def __post_init__(self) -> None:
        """Raises BadInput for a value that no engine has, or that the backend does not take."""
        if self.precision not in get_args(Precision):
            known = ", ".join(get_args(Precision))
            raise BadInput(f"precision {self.precision}: must be one of {known}")
        if not is_device(self.device):
            raise BadInput(f"device {self.device}: must be auto, cpu, cuda or cuda:N")
        fixed = (self.batches, self.sizes, self.rank, self.slots)
        if self.backend == "onnx" and any(fixed):
            raise BadInput(
                "batch, sizes, ranks, slots: are fixed by backend tensorrt only; an ONNX graph "
                "takes any, leave them out"
            )
        if any(one is not None and one < 1 for one in (*self.batches, self.rank, self.slots)):
            raise BadInput("batch, ranks, slots: must be at least 1")

    @classmethod
    def of_job(
        cls, spec: CompilationSpec, base: Path, *, tensorrt: str | None = None
    ) -> CompileRequest:
        """What a Job was made for, its base being in a folder."""
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
        """The GPUs of the Job that does this; BadInput for a number that it cannot use."""
        tensorrt = self.backend == "tensorrt"
        gpus = int(tensorrt) if requested is None else requested
        if gpus > 1 or (tensorrt and not gpus):
            usable = "one GPU, on which TensorRT builds" if tensorrt else "at most one GPU"
            raise BadInput(f"{gpus} GPUs: a compilation takes {usable}")
        return gpus

    def job_spec(
        self, base: str, image: str, *, gpus: int, gpu_kind: str | None
    ) -> CompilationSpec:
        """What decides about the Job that does this, given the base's digest.

        `gpu_kind` is the one it asks for; BadInput for a precision that no compiled UNet has.
        """
        if self.precision not in ("auto", "fp32", "fp16"):
            raise BadInput(f"precision {self.precision}: no compiled UNet has it; use fp16 or fp32")
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
    """Widths and heights in pixels, from `1024x1024`; BadInput tells how one is spelt."""
    found = []
    for text in texts:
        match = _SIZE.fullmatch(text)
        if match is None:
            raise BadInput(f"size {text}: is spelt WIDTHxHEIGHT in pixels, like 1024x1024")
        found.append((int(match[1]), int(match[2])))
    return tuple(found)
