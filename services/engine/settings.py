"""How large an engine is; checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass

import torch

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


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

    def __post_init__(self) -> None:
        for name in ("slots", "max_rank", "inflight", "queue", "patience", "decode_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is less than 1")
        if self.max_batch < 2:
            raise ValueError("max_batch: guidance needs 2 rows")
        if self.precision not in ("auto", *PRECISIONS):
            raise ValueError(f"precision: {self.precision!r} is not auto, {', '.join(PRECISIONS)}")

    def torch_device(self) -> torch.device:
        """The device meant by `device`."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def torch_dtype(self) -> torch.dtype:
        """The number format meant by `precision`."""
        if self.precision == "auto":
            return torch.float16 if self.torch_device().type == "cuda" else torch.float32
        return PRECISIONS[self.precision]
