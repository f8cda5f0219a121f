"""A UNet compiled ahead: what its folder says about it, and what it takes as inputs.

The folder holds the compiled files and `engine.json`, written last. Its key is the digest of what
it was compiled from, so that it can be looked for before anything is compiled; its digest covers
the files themselves. `pipelines/compile` makes it, the backends beside this module run it.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from atelier.data.names import Digest, hex_of
from atelier.errors import BadInput
from atelier.files import digest_json, sha256_bytes, sha256_file
from atelier.validation import summary
from services.engine.backends.protocol import Backend
from services.engine.layout import Layout
from services.engine.scheduling import Shape

MANIFEST = "engine.json"
ANY_DEVICE = "any"
# Of every graph, in this order; the bank's tensors follow (see `bank_names`).
INPUTS = ("latents", "timesteps", "text", "pooled", "time_ids", "slots")
OUTPUT = "noise"


class BankShape(BaseModel):
    """The bank that a graph of fixed shapes was compiled for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int
    slots: int  # without slot 0


class CompileSpec(BaseModel):
    """What a compiled UNet is made from. Where nothing is named, anything fits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    graph: Literal[1] = 1  # to be raised with every change of inputs or arithmetic
    backend: Literal["onnx", "tensorrt"]
    base: Digest
    precision: str = Field(pattern="fp32|fp16")
    bank: BankShape | None = None
    batches: tuple[int, ...] = ()  # rows of one call, ascending
    sizes: tuple[Shape, ...] = ()  # of the latents
    device: str = ANY_DEVICE
    versions: Mapping[str, str]  # of what compiled it

    @property
    def key(self) -> str:
        """Hexadecimal; `mlflow://engines/<key>`."""
        return hex_of(digest_json(self.model_dump(mode="json")))

    @property
    def profiles(self) -> tuple[tuple[int, Shape], ...]:
        """The calls that a graph of fixed shapes can run: rows, and height and width."""
        return tuple(itertools.product(self.batches, self.sizes))


class CompiledManifest(BaseModel):
    """engine.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: CompileSpec
    files: Mapping[str, Digest]
    error: float  # the largest difference to torch, of the prediction's largest value


@dataclass(frozen=True)
class Compiled:
    """A folder whose files are what its manifest says."""

    folder: Path
    manifest: CompiledManifest
    digest: str  # of the manifest, and so of the files

    @property
    def spec(self) -> CompileSpec:
        """What it was compiled from."""
        return self.manifest.spec

    @classmethod
    def open(cls, folder: Path) -> Compiled:
        """Raises BadInput where something is missing, damaged or of another program's making."""
        file = folder / MANIFEST
        if not file.is_file():
            raise BadInput(
                f"{folder}: holds no compiled UNet ({MANIFEST} is missing); make one with "
                "`atelier compile`"
            )
        data = file.read_bytes()
        try:
            manifest = CompiledManifest.model_validate_json(data)
        except ValidationError as error:
            raise BadInput(f"{file}: {summary(error)}; compile it again") from error
        for name, digest in manifest.files.items():
            if not (folder / name).is_file() or sha256_file(folder / name) != digest:
                raise BadInput(f"{folder / name}: missing or damaged; compile or fetch it again")
        return cls(folder, manifest, sha256_bytes(data))

    def check(self, *, backend: str, base: str, precision: str) -> None:
        """Raises BadInput where it was compiled for something else."""
        for name, here, there in (
            ("backend", backend, self.spec.backend),
            ("base", base, self.spec.base),
            ("precision", precision, self.spec.precision),
        ):
            if here != there:
                raise BadInput(
                    f"{self.folder}: was compiled for {name} {there}, and this engine has {here}"
                )

    def file(self, suffix: str) -> Path:
        """The one file that a runtime is started with."""
        return next(self.folder / name for name in self.manifest.files if name.endswith(suffix))


def bank_names(layout: Layout) -> tuple[str, ...]:
    """The names of the bank's inputs: a pair for each shape of projections."""
    groups = (layout.groups[i] for i in layout.groups_of("unet"))
    shapes = [f"{group.in_features}x{group.out_features}" for group in groups]
    return tuple(f"bank_{shape}_{side}" for shape in shapes for side in "AB")


class CompiledBackend(Backend):
    """Runs a compiled UNet on tensors that lie on the engine's device."""

    def __init__(self, compiled: Compiled, layout: Layout) -> None:
        """`compiled` has been checked against the engine's base and precision."""
        super().__init__(layout)
        self._compiled = compiled
        self._names = (*INPUTS, *bank_names(layout))

    def _run(self, inputs: Sequence[Tensor], mask: int) -> Tensor:
        """A graph computes every projection: rows without an adapter read slot 0, which is zero."""
        held = [tensor.contiguous() for tensor in inputs]  # alive until the call is done
        predicted = torch.empty_like(held[0], memory_format=torch.contiguous_format)
        self._call(dict(zip(self._names, held, strict=True)), predicted)
        return predicted

    @abstractmethod
    def _call(self, inputs: Mapping[str, Tensor], predicted: Tensor) -> None:
        """Fills `predicted` from contiguous inputs by name; done, or enqueued on torch's stream."""
