"""A compiled UNet: the format of its folder, and the names of its inputs.

The folder contains the compiled files and `engine.json`, which is written last. The key of a
compiled UNet is the digest of the inputs of its compilation, so it can be looked up before a
compilation. Its digest covers the compiled files. `pipelines/compile` creates the folder; the other
modules of this package run the compiled UNet.
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
# The inputs of every graph, in this order; the bank's tensors follow (see `bank_names`).
INPUTS = ("latents", "timesteps", "text", "pooled", "time_ids", "slots")
OUTPUT = "noise"


class BankShape(BaseModel):
    """The size of the bank for which a graph of fixed shapes was compiled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int  # max_rank
    slots: int  # number of slots, without slot 0


class CompileSpec(BaseModel):
    """The inputs of a compilation. If a value is absent, the graph accepts any value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    graph: Literal[1] = 1  # increased with every change of the graph's inputs or arithmetic
    backend: Literal["onnx", "tensorrt"]
    base: Digest
    precision: str = Field(pattern="fp32|fp16")
    bank: BankShape | None = None
    batches: tuple[int, ...] = ()  # supported numbers of rows in one call, ascending
    sizes: tuple[Shape, ...] = ()  # supported heights and widths of the latents
    device: str = ANY_DEVICE
    versions: Mapping[str, str]  # versions of the libraries that compiled the UNet

    @property
    def key(self) -> str:
        """The hexadecimal digest of the spec, as in `mlflow://engines/<key>`."""
        return hex_of(digest_json(self.model_dump(mode="json")))

    @property
    def profiles(self) -> tuple[tuple[int, Shape], ...]:
        """The shapes that a graph of fixed shapes accepts: rows, and latent height and width."""
        return tuple(itertools.product(self.batches, self.sizes))


class CompiledManifest(BaseModel):
    """The content of `engine.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: CompileSpec
    files: Mapping[str, Digest]
    error: float  # largest difference from torch, relative to the largest value of the prediction


@dataclass(frozen=True)
class Compiled:
    """A folder whose files match its manifest."""

    folder: Path
    manifest: CompiledManifest
    digest: str  # digest of the manifest, which contains the digests of the files

    @property
    def spec(self) -> CompileSpec:
        """The inputs of the compilation."""
        return self.manifest.spec

    @classmethod
    def open(cls, folder: Path) -> Compiled:
        """Open and verify a folder.

        Raises BadInput if a file is missing or damaged, or if another version of Atelier wrote the
        manifest.
        """
        file = folder / MANIFEST
        if not file.is_file():
            raise BadInput(
                f"{folder}: contains no compiled UNet ({MANIFEST} is missing); create one with "
                "`atelier compile`"
            )
        data = file.read_bytes()
        try:
            manifest = CompiledManifest.model_validate_json(data)
        except ValidationError as error:
            raise BadInput(f"{file}: {summary(error)}; compile the UNet again") from error
        for name, digest in manifest.files.items():
            if not (folder / name).is_file() or sha256_file(folder / name) != digest:
                raise BadInput(
                    f"{folder / name}: missing or damaged; compile or fetch the UNet again"
                )
        return cls(folder, manifest, sha256_bytes(data))

    def check(self, *, backend: str, base: str, precision: str) -> None:
        """Raise BadInput if the UNet was compiled for another backend, base or precision."""
        for name, engine, compiled in (
            ("backend", backend, self.spec.backend),
            ("base", base, self.spec.base),
            ("precision", precision, self.spec.precision),
        ):
            if engine != compiled:
                raise BadInput(
                    f"{self.folder}: was compiled for {name} {compiled}, but this engine has "
                    f"{engine}; compile the UNet again"
                )

    def file(self, suffix: str) -> Path:
        """Return the file with this suffix, which the runtime loads."""
        return next(self.folder / name for name in self.manifest.files if name.endswith(suffix))


def bank_names(layout: Layout) -> tuple[str, ...]:
    """Return the names of the bank inputs: a pair for each shape of UNet projections."""
    groups = (layout.groups[i] for i in layout.groups_of("unet"))
    shapes = [f"{group.in_features}x{group.out_features}" for group in groups]
    return tuple(f"bank_{shape}_{side}" for shape in shapes for side in "AB")


class CompiledBackend(Backend):
    """Run a compiled UNet on tensors on the engine's device."""

    def __init__(self, compiled: Compiled, layout: Layout) -> None:
        """Use `compiled`, which must have passed `Compiled.check`."""
        super().__init__(layout)
        self._compiled = compiled
        self._names = (*INPUTS, *bank_names(layout))

    def _run(self, inputs: Sequence[Tensor], mask: int) -> Tensor:
        """Run the graph. `mask` is ignored: rows without an adapter read slot 0, which is zero."""
        contiguous = [tensor.contiguous() for tensor in inputs]  # referenced until the call returns
        predicted = torch.empty_like(contiguous[0], memory_format=torch.contiguous_format)
        self._call(dict(zip(self._names, contiguous, strict=True)), predicted)
        return predicted

    @abstractmethod
    def _call(self, inputs: Mapping[str, Tensor], predicted: Tensor) -> None:
        """Write the prediction for `inputs`, contiguous tensors by name, to `predicted`.

        The call may be enqueued on the current stream of torch.
        """
