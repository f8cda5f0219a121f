"""A base's UNet compiled, checked against torch, and kept under its key.

The bank and the rows' slots stay inputs, so adapters come and go without a refit or a rebuild. What
is made is keyed by what it was made from, and nothing is kept that does not agree with torch.
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
    """The compiled UNet as the folder `output`; where one for the same is there, that one.

    `registry` is MLflow's address: looked into first, and given what was made. Raises Refused where
    the result does not compute what torch does, BadInput where it cannot be made here.
    """
    base, spec = opened(request, progress)
    ref = ArtifactRef("engines", spec.key)
    artifacts = Artifacts(registry) if registry else None
    found = there(output, spec)
    if found is None and artifacts and artifacts.exists(ref):
        return Compiled.open(artifacts.get(ref, output, progress=progress))
    found = found or make(base, spec, output, progress, tensorrt=request.tensorrt)
    if artifacts:
        artifacts.put(ref, output, progress=progress)
    return found


def opened(request: CompileRequest, progress: Progress) -> tuple[Base, CompileSpec]:
    """The base on its device, and what the request comes to there."""
    precision = cast(Precision, request.precision)  # the request has checked it
    settings = EngineSettings(device=request.device, precision=precision)
    device, dtype = settings.torch_device(), settings.torch_dtype()
    progress("loading the base", 0, 1)
    base = load_base(request.base, revision=request.revision, device=device, dtype=dtype)
    progress("loading the base", 1, 1)
    return base, spec_of(request, base)


def spec_of(request: CompileRequest, base: Base) -> CompileSpec:
    """What a request comes to on this machine; BadInput where it cannot be done here."""
    precision = precision_of(base.dtype)
    if precision == "bf16":
        raise BadInput("precision bf16: no compiled UNet has it; use fp16 or fp32")
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


def there(output: Path, spec: CompileSpec) -> Compiled | None:
    """What lies in the folder where it is just that; BadInput where it is something else's."""
    if not (output / MANIFEST).is_file():
        if output.exists() and any(output.iterdir()):
            raise BadInput(f"{output}: holds something else; name a new or empty folder")
        return None
    with suppress(BadInput):  # damaged: made again
        found = Compiled.open(output)
        if found.spec == spec:
            return found
    return None


def make(
    base: Base, spec: CompileSpec, output: Path, progress: Progress, *, tensorrt: str | None = None
) -> Compiled:
    """Builds in a folder to the side, checks, writes the manifest last and renames."""
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


def _settings(made: Compiled, tensorrt: str | None) -> EngineSettings:
    """Of an engine that runs it."""
    runs = EngineSettings(backend=made.spec.backend, compiled=str(made.folder), tensorrt=tensorrt)
    bank = made.spec.bank
    size = {"slots": bank.slots, "max_rank": bank.rank} if bank else {}
    return runs.model_copy(update=size)


def _manifest(folder: Path, spec: CompileSpec, *, error: float) -> Compiled:
    files = {f.name: sha256_file(f) for f in sorted(folder.iterdir()) if f.name != MANIFEST}
    manifest = CompiledManifest(spec=spec, files=files, error=error)
    write_atomic(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    return Compiled.open(folder)
