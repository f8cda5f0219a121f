"""`atelier trace`: show how a picture was made, and the lineage of its adapters."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.errors import AdapterRejected, BadInput, Refused, SignatureRejected
from atelier.home import Home
from commands.table import short
from commands.verb import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atelier.adapter.signers import Signer
    from atelier.stores.registry import Registry, VersionInfo

UNKNOWN = 1


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
    told = _told(image)
    trusted = _signers(signers) if signers else None
    adapters = [_checked(one, trusted) for one in told.get("adapters", ())]
    data = {"file": str(image), **told, "adapters": adapters}
    good = all(
        one["registry"] in ("known", "unregistered")
        and one.get("signature", {}).get("state") != "refused"
        for one in adapters
    )
    return Answer(_text(image, told, adapters), data, 0 if good else UNKNOWN)


def _told(image: Path) -> dict[str, Any]:
    from PIL import UnidentifiedImageError

    from services.gateway.png import CHUNK, read_metadata

    try:
        told = read_metadata(image.read_bytes())
    except (UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise BadInput(f"{image}: cannot be read as a picture; give the original PNG") from error
    if told is None:
        raise Refused(
            f"{image}: has no {CHUNK} chunk; it was not made by Atelier, or was saved again by a "
            "program that drops such chunks; give the original file"
        )
    return told


def _signers(path: Path) -> "tuple[Signer, ...]":
    from atelier.adapter.signature_policy import SignaturePolicy
    from atelier.adapter.signers import signers_in

    return signers_in(path) if path.is_dir() else SignaturePolicy.of_platform(path).signers


def _checked(adapter: dict[str, Any], signers: "Sequence[Signer] | None") -> dict[str, Any]:
    """The adapter, with its lineage and signature from the registry."""
    from commands.adapter_references import open_registry

    version = adapter.get("version")
    if version is None:
        return {**adapter, "registry": "unregistered"}
    registry = open_registry(Home.find())
    try:
        found = registry.version(adapter["name"], version)
    except BadInput as error:
        return {**adapter, "registry": "unknown", "why": str(error)}
    if found.digest != adapter["digest"]:
        why = f"the registry has {found.digest}"
        return {**adapter, "registry": "another digest", "why": why}
    try:
        manifest = registry.manifest(found)
    except AdapterRejected as error:
        return {**adapter, "registry": "damaged", "why": str(error)}
    lineage = {
        "run": found.run_id,
        **manifest.model_dump(include={"dataset", "recipe", "git_commit"}),
        "registered": found.created.isoformat(timespec="seconds"),
    }
    signature = _signature(registry, found, signers)
    return {**adapter, "registry": "known", "lineage": lineage, "signature": signature}


def _signature(
    registry: "Registry", info: "VersionInfo", signers: "Sequence[Signer] | None"
) -> dict[str, Any]:
    """The signature state: `unsigned`, `unchecked` (without signers), `good` or `refused`.

    `keys` are the keys that the signatures claim; null for a keyless signature.
    """
    from atelier.adapter.signature import claim, verify
    from commands.adapter_references import fetched

    made = registry.signatures(info)
    try:
        if signers is not None:
            package = fetched(registry, Home.find(), info)
            good = verify(package, made, signers)
            return {
                "state": "good",
                "keys": [claim(good.signature).key],
                "signer": good.signer.name,
            }
        keys = [claim(one).key for one in made]
    except SignatureRejected as error:
        return {"state": "refused", "why": str(error)}
    return {"state": "unchecked" if made else "unsigned", "keys": keys}


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
        for key, value in one.get("lineage", {}).items():
            lines.append(f"    {key.replace('_', ' '):14} {value or '-'}")
        if "signature" in one:
            lines.append(f"    {'signature':14} {_signed(one['signature'])}")
    return "\n".join(lines)


def _signed(signature: dict[str, Any]) -> str:
    keys = signature.get("keys", ())
    who = ", ".join(f"key {key[:12]}…" if key else "an identity (keyless)" for key in keys)
    said = {
        "unsigned": "unsigned",
        "unchecked": f"by {who}, not verified (give --signers)",
        "good": f"by {signature.get('signer')}, {who}: good",
        "refused": f"refused: {signature.get('why')}",
    }
    return said[signature["state"]]
