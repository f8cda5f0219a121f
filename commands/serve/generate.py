"""`atelier generate`: generate one image, in this process or through a gateway."""

import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.errors import BadInput
from atelier.files import write_atomic
from atelier.home import Home
from commands.command import Answer

if TYPE_CHECKING:
    from commands.adapter_references import AdapterReference
    from commands.serve.gateway_client import GatewayClient

MAX_RANDOM_SEED = 2**31  # short enough to copy by hand; the engine accepts 64-bit seeds


def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text of the prompt.")],
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="Output file.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADAPTER", help="NAME[@VERSION][=WEIGHT] or FOLDER[=WEIGHT]; repeatable."
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Base model. Default: the base of the adapter."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed. Default: random; the output shows it.")
    ] = None,
    steps: Annotated[int, typer.Option(metavar="N", help="Denoising steps.")] = 30,
    scheduler: Annotated[
        str, typer.Option(metavar="NAME", help="Noise scheduler: euler, ddim, pndm, lms, dpm++ …")
    ] = "euler",
    guidance_scale: Annotated[
        float, typer.Option(metavar="G", help="Guidance scale; 1 disables guidance.")
    ] = 5.0,
    width: Annotated[
        int | None,
        typer.Option(metavar="W", help="Width in pixels. Default: the width of the base."),
    ] = None,
    height: Annotated[
        int | None,
        typer.Option(metavar="H", help="Height in pixels. Default: the height of the base."),
    ] = None,
    negative_prompt: Annotated[
        str | None, typer.Option(metavar="P", help="Negative prompt.")
    ] = None,
    style: Annotated[str | None, typer.Option(metavar="NAME", help="Style of an adapter.")] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Generate through the gateway at this URL.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", envvar="ATELIER_KEY", help="API key of the gateway."),
    ] = None,
) -> Answer:
    """Generate one image, in this process or through a gateway."""
    from commands.adapter_references import AdapterReference
    from commands.serve.gateway_client import GatewayClient

    references = [AdapterReference.parse(text) for text in adapter or ()]
    settings: dict[str, Any] = {
        "prompt": prompt,
        "seed": secrets.randbelow(MAX_RANDOM_SEED) if seed is None else seed,
        "steps": steps,
        "scheduler": scheduler,
        "guidance_scale": guidance_scale,
        "width": width,
        "height": height,
        "negative_prompt": negative_prompt,
    }
    if url is None:
        png, metadata = _generate_here(references, base, style, settings)
    else:
        if base is not None:
            raise BadInput(
                "--base: not available with --url, because a gateway serves its own base; leave "
                "out one of them"
            )
        client = GatewayClient(url, key or "")
        png, metadata = _generate_at_gateway(client, references, style, settings)
    write_atomic(out, png)
    return Answer(_text(out, metadata), {"file": str(out), **metadata})


def _generate_here(
    references: "list[AdapterReference]",
    base: str | None,
    style: str | None,
    settings: dict[str, Any],
) -> tuple[bytes, dict[str, Any]]:
    """Return a PNG and its metadata from an engine in this process.

    Style and trigger words are inserted into the prompt as the gateway inserts them.
    """
    from commands.adapter_references import resolve
    from commands.terminal import hide_library_bars
    from services.engine import ImageRequest
    from services.engine.local import local_engine
    from services.gateway.png import encode_png
    from services.gateway.prompts import styled, triggered

    home = Home.find()
    request = ImageRequest(**settings)
    request.validate()
    adapters = [resolve(reference, home) for reference in references]
    manifests = [adapter.package.manifest for adapter in adapters]
    prompt = triggered(styled(request.prompt, style, manifests), manifests)
    hide_library_bars()
    with local_engine(adapters, base) as local:
        uses = tuple(
            local.use(index, reference.weight) for index, reference in enumerate(references)
        )
        request = replace(request, prompt=prompt, adapters=uses)
        result = local.engine.generate(request)
        metadata = local.metadata(request, result)
    png = encode_png(result.images[0], metadata)
    return png, {**metadata, "warnings": list(result.warnings), "timings": result.timings}


def _generate_at_gateway(
    client: "GatewayClient",
    references: "list[AdapterReference]",
    style: str | None,
    settings: dict[str, Any],
) -> tuple[bytes, dict[str, Any]]:
    """Return a PNG and its metadata from a gateway. Raises BadInput if an adapter is a folder."""
    folders = [reference for reference in references if reference.path is not None]
    if folders:
        raise BadInput(
            f"--adapter {folders[0]}: a gateway serves adapters by name only; give a name, or "
            "leave out --url"
        )
    adapters = [
        {
            "name": reference.name,
            "weight": reference.weight,
            **({"version": reference.version} if reference.version else {}),
        }
        for reference in references
    ]
    answer = client.generate(**settings, style=style, adapters=adapters or None)
    return answer.pictures[0].png, {**answer.body, "seed": answer.pictures[0].seed}


def _text(out: Path, metadata: dict[str, Any]) -> str:
    adapters = [
        f"{adapter['name']}@{adapter['version']}" if adapter.get("version") else adapter["name"]
        for adapter in metadata.get("adapters", ())
    ]
    lines = [f"{out}: seed {metadata['seed']}, {' + '.join(adapters) or 'the base alone'}"]
    lines += [f"warning: {warning}" for warning in metadata.get("warnings") or ()]
    return "\n".join(lines)
