"""`atelier trace`: which prompt, seed and adapter versions a picture came from."""

from pathlib import Path
from typing import Annotated, Any

import typer

from atelier.errors import BadInput, Refused
from atelier.home import Home
from commands.table import short
from commands.verb import Answer

UNKNOWN = 1


def trace(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A PNG that Atelier made.")],
) -> Answer:
    """Say how a picture was made, and check its adapters against the registry.

    Exit code 1 when the picture says nothing, or names what the registry does not know.
    """
    told = _told(image)
    adapters = [_checked(one) for one in told.get("adapters", ())]
    data = {"file": str(image), **told, "adapters": adapters}
    known = all(one["registry"] in ("known", "unregistered") for one in adapters)
    return Answer(_text(image, told, adapters), data, 0 if known else UNKNOWN)


def _told(image: Path) -> dict[str, Any]:
    from PIL import UnidentifiedImageError

    from services.gateway.images import CHUNK, read_metadata

    try:
        told = read_metadata(image.read_bytes())
    except (UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise BadInput(f"{image}: not a picture that can be read; give the PNG itself") from error
    if told is None:
        raise Refused(
            f"{image}: has no {CHUNK} chunk, so it was not made by Atelier or was saved again "
            "by a program that drops such chunks; give the original file"
        )
    return told


def _checked(adapter: dict[str, Any]) -> dict[str, Any]:
    """The adapter with what the registry says about it."""
    from commands.sources import open_registry

    version = adapter.get("version")
    if version is None:
        return {**adapter, "registry": "unregistered"}
    try:
        found = open_registry(Home.find()).version(adapter["name"], version)
    except BadInput as error:
        return {**adapter, "registry": "unknown", "why": str(error)}
    if found.digest != adapter["digest"]:
        why = f"the registry has {found.digest}"
        return {**adapter, "registry": "another digest", "why": why}
    tags = {key: value for key, value in found.tags.items() if not key.startswith("mlflow.")}
    return {**adapter, "registry": "known", "run": found.run_id, "lineage": tags}


def _text(image: Path, told: dict[str, Any], adapters: list[dict[str, Any]]) -> str:
    shown = ("prompt", "negative_prompt", "seed", "steps", "scheduler", "guidance_scale")
    lines = [f"{image}"]
    lines += [f"  {name:16} {told[name]}" for name in shown if told.get(name) is not None]
    lines.append(f"  {'base':16} {short(told.get('base'))}")
    lines.append(f"  {'backend':16} {told.get('backend')} ({short(told.get('engine_digest'))})")
    for one in adapters:
        version = f"@{one['version']}" if one.get("version") is not None else ""
        why = f": {one['why']}" if "why" in one else ""
        lines.append(
            f"  {'adapter':16} {one['name']}{version} x {one['weight']:g}, "
            f"{short(one['digest'])}, registry: {one['registry']}{why}"
        )
        for tag, value in sorted(one.get("lineage", {}).items()):
            lines.append(f"    {tag:22} {value}")
    return "\n".join(lines)
