"""`atelier compile`: compile the UNet of a base for ONNX Runtime or TensorRT, here or in a Job."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.errors import BadInput
from atelier.home import Home
from atelier.stores.base_files import DEFAULT_BASE
from commands.command import Answer
from commands.job_options import JobChoices, job_data, manifest_answer
from commands.terminal import hide_library_bars, print_progress, progress, short

if TYPE_CHECKING:
    from pipelines.compile.request import CompileRequest


class CompileRuntime(StrEnum):
    """The runtime of the compiled UNet."""

    ONNX = "onnx"
    TENSORRT = "tensorrt"


def compile_base(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="Base model: a folder or a Hugging Face hub ID.")
    ] = DEFAULT_BASE,
    revision: Annotated[
        str | None, typer.Option(help="Revision of a hub model: a commit, tag or branch.")
    ] = None,
    backend: Annotated[
        CompileRuntime, typer.Option(help="Runtime of the compiled UNet.")
    ] = CompileRuntime.ONNX,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Output folder. Default: a folder in $ATELIER_HOME."),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Precision: fp32, fp16, or auto (depends on the device).")
    ] = "auto",
    device: Annotated[str, typer.Option(help="Device: auto, cpu, cuda or cuda:N.")] = "auto",
    batch: Annotated[
        list[int] | None, typer.Option(help="TensorRT: number of rows of a UNet call; repeatable.")
    ] = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option(metavar="WxH", help="TensorRT: image size in pixels; repeatable."),
    ] = None,
    ranks: Annotated[int | None, typer.Option(help="TensorRT: maximum rank of an adapter.")] = None,
    slots: Annotated[int | None, typer.Option(help="TensorRT: number of adapter slots.")] = None,
    registry: Annotated[
        bool,
        typer.Option("--registry", help="Reuse a result from MLflow, and store a new one there."),
    ] = False,
    submit: Annotated[
        bool,
        typer.Option("--submit", help="Compile in a Job on a cluster, with the options below."),
    ] = False,
    job: JobChoices = JobChoices(),
) -> Answer:
    """Compile the UNet of a base and compare its output with torch.

    Adapters are an input of the compiled UNet, so a new adapter needs no new compilation. To serve
    the compiled UNet, set ATELIER_BACKEND and ATELIER_COMPILED. With --submit, a Job on a cluster
    loads the base from MLflow and stores the compiled UNet there. Exit code 1 if its output differs
    from that of torch.
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
                "--output, --device: not available with --submit; leave them out (the Job stores "
                "the compiled UNet in MLflow, and --gpus sets its device)"
            )
        return _submitted(request, job)
    if replace(job, image=None) != JobChoices():
        raise BadInput(
            "--queue and the options below it in --help: they apply only to a Job; add --submit, "
            "or leave them out"
        )
    return _compiled(request, output, registry=registry)


def _compiled(request: "CompileRequest", output: Path | None, *, registry: bool) -> Answer:
    """Compile on this machine. The output shows the command that serves the result."""
    from pipelines.compile.unet import compile_unet

    hide_library_bars()
    home = Home.find()
    folder = output or home.root / "compiled" / f"{Path(request.base).name}-{request.backend}"
    with progress() as report_progress:
        compiled = compile_unet(
            request,
            output=folder,
            registry=home.tracking_uri if registry else None,
            progress=report_progress,
        )
    uri = f"mlflow://engines/{compiled.spec.key}"
    stored = "" if registry else " (not stored in MLflow; add --registry to store it)"
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
    """Submit a compilation Job unless an equal Job exists. With --follow, wait until it ends."""
    from atelier.stores.artifacts import Artifacts
    from pipelines.submission import CompilationSubmission

    uri = Home.find().tracking_uri
    options = job.options(request.job_gpus(job.gpus))
    submission = CompilationSubmission(request, options, artifacts=lambda: Artifacts(uri))
    if job.dry_run:
        return manifest_answer(submission.work, options)
    with progress() as report_progress:
        result = submission.submit(follow=job.follow, log=print_progress, progress=report_progress)
    data: dict[str, Any] = {"base": submission.base, "spec": submission.spec.digest, "job": None}
    lines = []
    if result.job is not None:
        lines.append(str(result.job))
        data |= job_data(result.job)
    if result.engine is not None:
        note = "" if result.job else " exists already; it was made from the same inputs"
        lines.append(f"{result.engine}{note}")
        data |= {"key": result.engine.key, "uri": str(result.engine)}
    return Answer("\n".join(lines), data, result.exit_code)
