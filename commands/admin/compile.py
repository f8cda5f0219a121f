"""`atelier compile`: compile a base's UNet for ONNX Runtime or TensorRT, here or as a Job."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.errors import BadInput
from atelier.home import Home
from atelier.stores.base_files import DEFAULT_BASE
from commands.job_options import JobChoices, job_data, manifest_answer
from commands.terminal import hide_library_bars, progress, say, short
from commands.verb import Answer

if TYPE_CHECKING:
    from pipelines.compile.request import CompileRequest


class CompileRuntime(StrEnum):
    """Runtime to compile for."""

    ONNX = "onnx"
    TENSORRT = "tensorrt"


def compile_base(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="Base model: a folder or a hub id.")
    ] = DEFAULT_BASE,
    revision: Annotated[
        str | None, typer.Option(help="Revision of a hub model: a commit, tag or branch.")
    ] = None,
    backend: Annotated[
        CompileRuntime, typer.Option(help="Runtime to compile for.")
    ] = CompileRuntime.ONNX,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Output folder. Default: inside the home.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="fp32, fp16, or auto (depends on the device).")
    ] = "auto",
    device: Annotated[str, typer.Option(help="Device: auto, cpu, cuda or cuda:N.")] = "auto",
    batch: Annotated[
        list[int] | None, typer.Option(help="TensorRT: rows of a UNet call; repeatable.")
    ] = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option(metavar="WxH", help="TensorRT: picture size in pixels; repeatable."),
    ] = None,
    ranks: Annotated[int | None, typer.Option(help="TensorRT: max_rank of the engine.")] = None,
    slots: Annotated[int | None, typer.Option(help="TensorRT: slots of the engine.")] = None,
    registry: Annotated[
        bool,
        typer.Option("--registry", help="Look the result up in MLflow first, and store it there."),
    ] = False,
    submit: Annotated[
        bool,
        typer.Option(
            "--submit", help="Compile in a Job on a cluster. The options below are for the Job."
        ),
    ] = False,
    job: JobChoices = JobChoices(),
) -> Answer:
    """Compile a base's UNet and check the result against torch.

    The bank of adapters is an input of the compiled UNet, so adapters can change without a new
    compilation. Exit code 1 if the result differs from torch. To serve it, set ATELIER_BACKEND and
    ATELIER_COMPILED. With --submit the compilation runs as a Job on a cluster, which loads the base
    from MLflow and stores the compiled UNet there.
    """
    from commands.settings import CommandSettings
    from pipelines.compile.request import CompileRequest, parse_sizes

    request = CompileRequest(
        base,
        revision=revision,
        backend=backend.value,
        precision=precision,
        device=device,
        batches=batch or (),
        sizes=parse_sizes(sizes or []),
        rank=ranks,
        slots=slots,
        tensorrt=CommandSettings.read().tensorrt,
    )
    if submit:
        if output or device != "auto":
            raise BadInput(
                "--output, --device: leave them out with --submit; a Job stores its engine in "
                "MLflow, and --gpus sets its device"
            )
        return _submitted(request, job)
    if replace(job, image=None) != JobChoices():
        raise BadInput("--queue and the options after it in --help are for a Job; add --submit")
    return _compiled(request, output, registry=registry)


def _compiled(request: "CompileRequest", output: Path | None, *, registry: bool) -> Answer:
    """Compile on this machine."""
    from pipelines.compile.unet import compile_unet

    hide_library_bars()
    home = Home.find()
    folder = output or home.root / "compiled" / f"{Path(request.base).name}-{request.backend}"
    with progress() as shown:
        compiled = compile_unet(
            request,
            output=folder,
            registry=home.tracking_uri if registry else None,
            progress=shown,
        )
    uri = f"mlflow://engines/{compiled.spec.key}"
    stored = "" if registry else " (not stored there; add --registry)"
    lines = [
        f"{folder}  {short(compiled.digest)}, differs from torch by {compiled.manifest.error:.0e}",
        f"address: {uri}{stored}",
        f"to serve it: ATELIER_BACKEND={request.backend} ATELIER_COMPILED={folder} atelier serve",
    ]
    data = {
        "compiled": str(folder),
        "digest": compiled.digest,
        "key": compiled.spec.key,
        "uri": uri,
        "registered": registry,
        "error": compiled.manifest.error,
        "spec": compiled.spec.model_dump(mode="json"),
    }
    return Answer("\n".join(lines), data)


def _submitted(request: "CompileRequest", job: JobChoices) -> Answer:
    """Compile in a Job, or find an earlier one. With `follow`, wait for its end and the address."""
    from atelier.stores.artifacts import Artifacts
    from pipelines.submission import CompilationSubmission

    uri = Home.find().tracking_uri
    options = job.options(request.job_gpus(job.gpus))
    submission = CompilationSubmission(request, options, artifacts=lambda: Artifacts(uri))
    if job.dry_run:
        return manifest_answer(submission.work, options)
    with progress() as shown:
        result = submission.submit(follow=job.follow, log=say, progress=shown)
    data: dict[str, Any] = {"base": submission.base, "spec": submission.spec.digest, "job": None}
    lines = []
    if result.job is not None:
        lines.append(str(result.job))
        data |= job_data(result.job)
    if result.engine is not None:
        known = "" if result.job else " exists already, made from the same inputs"
        lines.append(f"{result.engine}{known}")
        data |= {"key": result.engine.key, "uri": str(result.engine)}
    return Answer("\n".join(lines), data, result.exit_code)
