"""`atelier compile`: compile a base's UNet for ONNX Runtime or TensorRT, here or as a Job."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.errors import BadInput
from commands.admin.job_options import JobChoices, sent, shown
from commands.settings import CommandSettings
from commands.table import short
from commands.verb import Answer

if TYPE_CHECKING:
    from pipelines.compile.request import CompileRequest

BASE = "models/miniature"


class CompileRuntime(StrEnum):
    """Runtime to compile for."""

    ONNX = "onnx"
    TENSORRT = "tensorrt"


def compile_base(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="Base model: a folder or a hub id.")
    ] = BASE,
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
    from atelier.home import Home
    from commands.progress import progress  # heavy imports wait until the input is valid
    from commands.quiet import quiet_loading
    from pipelines.compile.unet import compile_unet

    quiet_loading()
    home = Home.find()
    into = output or home.root / "compiled" / f"{Path(request.base).name}-{request.backend}"
    with progress() as told:
        made = compile_unet(
            request,
            output=into,
            registry=home.tracking_uri if registry else None,
            progress=told,
        )
    kept = "" if registry else " (not stored there; add --registry)"
    lines = [
        f"{into}  {short(made.digest)}, differs from torch by {made.manifest.error:.0e}",
        f"address: mlflow://engines/{made.spec.key}{kept}",
        f"to serve it: ATELIER_BACKEND={request.backend} ATELIER_COMPILED={into} atelier serve",
    ]
    data = {
        "compiled": str(into),
        "digest": made.digest,
        "key": made.spec.key,
        "uri": f"mlflow://engines/{made.spec.key}",
        "registered": registry,
        "error": made.manifest.error,
        "spec": made.spec.model_dump(mode="json"),
    }
    return Answer("\n".join(lines), data)


def _submitted(request: "CompileRequest", job: JobChoices) -> Answer:
    """Compile in a Job, or find an earlier one. With `follow`, wait for its end and the address."""
    from atelier.platform.jobs import image_identity
    from commands.admin.import_models import open_artifacts
    from commands.progress import progress
    from pipelines.job_inputs import find_base, put

    tensorrt = request.backend == "tensorrt"
    gpus = int(tensorrt) if job.gpus is None else job.gpus
    if gpus > 1 or (tensorrt and not gpus):
        wanted = "one GPU, on which TensorRT builds" if tensorrt else "at most one GPU"
        raise BadInput(f"--gpus {gpus}: a compilation takes {wanted}")
    options = job.options(gpus)
    base, contents = find_base(request.base, request.revision, open_artifacts)
    identity = image_identity(options.image)
    spec = request.job_spec(base, identity, gpus=gpus, gpu_kind=job.gpu_kind)
    if job.dry_run:
        return shown(spec.work(), options)
    artifacts = open_artifacts()
    about = {"base": base, "spec": spec.digest}
    known = artifacts.made_from("engines", spec.digest)
    if known is not None:
        data = {**about, "job": None, "key": known.key, "uri": str(known)}
        return Answer(f"{known} exists already, made from the same inputs", data)
    with progress() as told:
        uploaded = put(contents, artifacts, told)
    answer = sent(spec.work(), options, {**about, "uploaded": uploaded}, follow=job.follow)
    if not job.follow or answer.exit_code:
        return answer
    made = open_artifacts().made_from("engines", spec.digest)
    if made is None:
        raise BadInput(f"{answer.text}, but MLflow no longer has its engine; delete that Job")
    return Answer(f"{answer.text}\n{made}", {**answer.data, "key": made.key, "uri": str(made)})
