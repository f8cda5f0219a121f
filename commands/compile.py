"""`atelier compile`: a base's UNet for ONNX Runtime or TensorRT, for any adapters."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from commands.table import short
from commands.verb import Answer

BASE = "models/miniature"


class Backend(StrEnum):
    """Who will run it."""

    ONNX = "onnx"
    TENSORRT = "tensorrt"


def compile_base(
    base: Annotated[str, typer.Argument(metavar="BASE", help="A folder or a hub id.")] = BASE,
    revision: Annotated[
        str | None, typer.Option(help="Of a base from the hub: a commit, tag or branch.")
    ] = None,
    backend: Annotated[Backend, typer.Option(help="Who will run it.")] = Backend.ONNX,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="By default a folder of the home.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16, or auto by the device.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    batch: Annotated[
        list[int] | None, typer.Option(help="TensorRT: rows of a UNet call; several times.")
    ] = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option(metavar="WxH", help="TensorRT: pixels of a picture; several times."),
    ] = None,
    ranks: Annotated[int | None, typer.Option(help="TensorRT: the engine's max_rank.")] = None,
    slots: Annotated[int | None, typer.Option(help="TensorRT: the engine's slots.")] = None,
    registry: Annotated[
        bool, typer.Option("--registry", help="Look it up in MLflow, and keep it there.")
    ] = False,
) -> Answer:
    """Compile a base's UNet with the adapters' bank as an input, and check it against torch.

    Adapters come and go without compiling anything again. Exit code 1 where its numbers are not
    torch's. It is served by ATELIER_BACKEND and ATELIER_COMPILED.
    """
    from atelier.home import Home
    from pipelines.compile.__main__ import parse_sizes

    home, pixels = Home.find(), parse_sizes(sizes or [])
    from commands.progress import progress  # what is heavy waits until the input is known good
    from commands.quiet import quiet_loading
    from pipelines.compile import CompileRequest, compile_unet

    quiet_loading()
    request = CompileRequest(
        base,
        revision=revision,
        backend=backend.value,
        precision=precision,
        device=device,
        batches=batch or (),
        sizes=pixels,
        rank=ranks,
        slots=slots,
    )
    into = output or home.root / "compiled" / f"{Path(base).name}-{backend.value}"
    with progress() as shown:
        made = compile_unet(
            request,
            output=into,
            registry=home.tracking_uri if registry else None,
            progress=shown,
        )
    kept = "" if registry else " (with --registry it is kept there)"
    lines = [
        f"{into}  {short(made.digest)}, differs from torch by {made.manifest.error:.0e}",
        f"its address: mlflow://engines/{made.spec.key}{kept}",
        f"serve it: ATELIER_BACKEND={backend.value} ATELIER_COMPILED={into} atelier serve",
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
