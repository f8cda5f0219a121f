"""`atelier trace`: show how a picture was made, and the lineage of its adapters."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.errors import BadInput, ExitCode, Refused
from atelier.home import Home
from commands.terminal import short
from commands.verb import Answer

if TYPE_CHECKING:
    from atelier.adapter.signers import Signer


def trace(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="PNG made by Atelier.")],
    signers: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Verify signatures with a folder of signers or a platform.yaml.",
        ),
    ] = None,
) -> Answer:
    """Show how a picture was made: prompt, seed, adapters, their lineage and signatures.

    The data in the picture is checked against the registry. Exit code 1 if the picture has no such
    data, if the registry does not have one of its adapters, or if a signature does not verify.
    """
    from atelier.stores.registry import Registry
    from pipelines.delivery.provenance import provenance_of

    metadata = _metadata(image)
    trusted = _signers(signers) if signers else None
    home = Home.find()
    provenances = [
        provenance_of(
            lambda: Registry(home.tracking_uri),
            home,
            adapter["name"],
            adapter.get("version"),
            adapter["digest"],
            trusted,
        )
        for adapter in metadata.get("adapters", ())
    ]
    adapters = [
        {**adapter, **provenance.to_json()}
        for adapter, provenance in zip(metadata.get("adapters", ()), provenances, strict=True)
    ]
    return Answer(
        _text(image, metadata, adapters),
        {"file": str(image), **metadata, "adapters": adapters},
        ExitCode.of_verdict(all(provenance.is_good for provenance in provenances)),
    )


def _metadata(image: Path) -> dict[str, Any]:
    """The picture's own account of how it was made; Refused where it has none."""
    from PIL import UnidentifiedImageError

    from services.gateway.png import CHUNK, read_metadata

    try:
        metadata = read_metadata(image.read_bytes())
    except (UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise BadInput(f"{image}: cannot be read as a picture; give the original PNG") from error
    if metadata is None:
        raise Refused(
            f"{image}: has no {CHUNK} chunk; it was not made by Atelier, or was saved again by a "
            "program that drops such chunks; give the original file"
        )
    return metadata


def _signers(path: Path) -> "tuple[Signer, ...]":
    from atelier.adapter.signature_policy import SignaturePolicy
    from atelier.adapter.signers import signers_in

    return signers_in(path) if path.is_dir() else SignaturePolicy.of_platform(path).signers


def _text(image: Path, metadata: dict[str, Any], adapters: list[dict[str, Any]]) -> str:
    shown = ("prompt", "negative_prompt", "seed", "steps", "scheduler", "guidance_scale")
    lines = [f"{image}"]
    lines += [f"  {key:16} {metadata[key]}" for key in shown if metadata.get(key) is not None]
    lines.append(f"  {'base':16} {short(metadata.get('base'))}")
    engine = short(metadata.get("engine_digest"))
    lines.append(f"  {'backend':16} {metadata.get('backend')} ({engine})")
    for adapter in adapters:
        version = f"@{adapter['version']}" if adapter.get("version") is not None else ""
        why = f": {adapter['why']}" if "why" in adapter else ""
        lines.append(
            f"  {'adapter':16} {adapter['name']}{version} x {adapter['weight']:g}, "
            f"{short(adapter['digest'])}, registry: {adapter['registry']}{why}"
        )
        for key, value in adapter.get("lineage", {}).items():
            lines.append(f"    {key.replace('_', ' '):14} {value or '-'}")
        if "signature" in adapter:
            lines.append(f"    {'signature':14} {_signature(adapter['signature'])}")
    return "\n".join(lines)


def _signature(signature: dict[str, Any]) -> str:
    keys = signature.get("keys", ())
    signers = ", ".join(f"key {key[:12]}…" if key else "an identity (keyless)" for key in keys)
    texts = {
        "unsigned": "unsigned",
        "unchecked": f"by {signers}, not verified (give --signers)",
        "good": f"by {signature.get('signer')}, {signers}: good",
        "refused": f"refused: {signature.get('why')}",
    }
    return texts[signature["state"]]
