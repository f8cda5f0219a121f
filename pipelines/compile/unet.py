"""Compiles a base's UNet, checks it against torch, and stores it under its key.

The bank and the slots of the rows are inputs of the graph, so adapters can change without a refit
or rebuild. The key is computed from all inputs that affect the result. A compiled UNet that differs
from torch is discarded.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import cast

import diffusers
import torch

from atelier.data.names import ArtifactRef
from atelier.errors import BadInput
from atelier.files import replace_folder, sha256_file, staging, write_atomic
from atelier.stores.artifacts import Artifacts
from pipelines.compile.check import Progress, check
from pipelines.compile.onnx import export
from pipelines.compile.request import CompileRequest
from services.engine.backends import make_backend
from services.engine.backends.compiled import (
    MANIFEST,
    BankShape,
    Compiled,
    CompiledManifest,
    CompileSpec,
)
from services.engine.base import Base, load_base
from services.engine.layout import layout_of
from services.engine.settings import EngineSettings, Precision, precision_of

BATCHES = (2, 4, 8)  # one to four images with guidance


def compile_unet(
    request: CompileRequest,
    *,
    output: Path,
    registry: str | None = None,
    progress: Progress = lambda doing, done, total: None,
) -> Compiled:
    """Compile the UNet into the folder `output`, or reuse one with the same spec.

    `registry` is the address of MLflow: an existing compiled UNet is fetched from MLflow, and a new
    one is uploaded. Raises Refused if the result differs from torch, and BadInput if this machine
    cannot compile it.
    """
    base, spec = load(request, progress)
    ref = ArtifactRef("engines", spec.key)
    artifacts = Artifacts(registry) if registry else None
    compiled = existing(output, spec)
    if compiled is None and artifacts and artifacts.exists(ref):
        return Compiled.open(artifacts.get(ref, output, progress=progress))
    compiled = compiled or make(base, spec, output, progress, tensorrt=request.tensorrt)
    if artifacts:
        artifacts.put(ref, output, progress=progress)
    return compiled


def load(request: CompileRequest, progress: Progress) -> tuple[Base, CompileSpec]:
    """Load the base on its device; return it with the spec of the request."""
    precision = cast(Precision, request.precision)  # CompileRequest has checked the value
    settings = EngineSettings(device=request.device, precision=precision)
    device, dtype = settings.torch_device(), settings.torch_dtype()
    progress("loading the base", 0, 1)
    base = load_base(request.base, revision=request.revision, device=device, dtype=dtype)
    progress("loading the base", 1, 1)
    return base, spec_of(request, base)


def spec_of(request: CompileRequest, base: Base) -> CompileSpec:
    """Return the spec of a request. Raises BadInput if this machine cannot fulfil the request."""
    precision = precision_of(base.dtype)
    if precision == "bf16":
        raise BadInput("precision bf16: no compiled UNet supports it; use fp16 or fp32")
    versions = {"torch": torch.__version__.partition("+")[0], "diffusers": diffusers.__version__}
    if request.backend == "onnx":
        import onnx

        versions["onnx"] = onnx.__version__
        return CompileSpec(backend="onnx", base=base.digest, precision=precision, versions=versions)
    from services.engine.backends.tensorrt import gpu_name, load_tensorrt

    device = gpu_name(base.device)
    versions["tensorrt"] = load_tensorrt(request.tensorrt).__version__
    return CompileSpec(
        backend="tensorrt",
        base=base.digest,
        precision=precision,
        bank=BankShape(
            rank=request.rank or EngineSettings().max_rank,
            slots=request.slots or EngineSettings().slots,
        ),
        batches=tuple(sorted(set(request.batches or BATCHES))),
        sizes=_latent_sizes(request, base),
        device=device,
        versions=versions,
    )


def _latent_sizes(request: CompileRequest, base: Base) -> tuple[tuple[int, int], ...]:
    scale = base.reduction
    sizes = request.sizes or ((base.size, base.size),)
    for width, height in sizes:
        if width < scale or height < scale or width % scale or height % scale:
            raise BadInput(f"size {width}x{height}: both sides must be multiples of {scale}")
    return tuple(sorted({(height // scale, width // scale) for width, height in sizes}))


def existing(output: Path, spec: CompileSpec) -> Compiled | None:
    """Return the compiled UNet in `output` if it has this spec, otherwise None.

    Raises BadInput if the folder contains other files.
    """
    if not (output / MANIFEST).is_file():
        if output.exists() and any(output.iterdir()):
            raise BadInput(f"{output}: contains other files; use a new or empty folder")
        return None
    with suppress(BadInput):  # a damaged one is compiled again
        compiled = Compiled.open(output)
        if compiled.spec == spec:
            return compiled
    return None


def make(
    base: Base, spec: CompileSpec, output: Path, progress: Progress, *, tensorrt: str | None = None
) -> Compiled:
    """Export, build and check in a temporary folder, then rename it to `output`.

    The manifest is written last. Raises Refused if the result differs from torch.
    """
    layout = layout_of(base)
    with staging(output) as aside:
        progress("exporting the UNet", 0, 1)
        export(base, layout, aside)
        progress("exporting the UNet", 1, 1)
        if spec.backend == "tensorrt":
            from pipelines.compile.tensorrt import build

            progress("building the engine", 0, 1)
            build(aside, spec, base, layout, tensorrt=tensorrt)
            progress("building the engine", 1, 1)
        draft = _manifest(aside, spec, error=0.0)
        backend = make_backend(_settings(draft, tensorrt), base, layout)
        error = check(backend, base, layout, spec, progress)
        _manifest(aside, spec, error=error)
        replace_folder(aside, output)
    return Compiled.open(output)


def _settings(compiled: Compiled, tensorrt: str | None) -> EngineSettings:
    """Return the settings of an engine that runs the compiled UNet."""
    backend, bank = compiled.spec.backend, compiled.spec.bank
    settings = EngineSettings(backend=backend, compiled=str(compiled.folder), tensorrt=tensorrt)
    size = {"slots": bank.slots, "max_rank": bank.rank} if bank else {}
    return settings.model_copy(update=size)


def _manifest(folder: Path, spec: CompileSpec, *, error: float) -> Compiled:
    files = {f.name: sha256_file(f) for f in sorted(folder.iterdir()) if f.name != MANIFEST}
    manifest = CompiledManifest(spec=spec, files=files, error=error)
    write_atomic(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    return Compiled.open(folder)
