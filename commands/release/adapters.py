"""`atelier adapters`: list, inspect, import and export adapters; fetch their pictures."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from atelier.home import Home
from commands.command import Answer
from commands.terminal import short, table

Reference = Annotated[str, typer.Argument(metavar="ADAPTER", help="NAME[@VERSION] or FOLDER.")]


def list_adapters() -> Answer:
    """List all versions with their verdicts, and the versions that serve on this machine.

    HERE is `serving` for a version that a running replica serves by default, `loaded` for another
    version that a replica holds, and `released` for a released version that no replica holds.
    """
    from atelier.stores.registry import Registry
    from pipelines.delivery.local.status import home_status

    home = Home.find()
    registry, here = Registry(home.tracking_uri), home_status(home)
    entries: list[dict[str, Any]] = []
    for name in registry.adapters():
        for info in registry.versions(name):
            state = here.state_of(name, info.digest)
            entries.append(
                {
                    "adapter": name,
                    "version": info.version,
                    "digest": info.digest,
                    "verdict": info.verdict,
                    "aliases": sorted(info.aliases),
                    "here": state,
                    "serving": state == "serving",
                }
            )
    rows = [
        (
            entry["adapter"],
            entry["version"],
            short(entry["digest"]),
            entry["verdict"],
            ", ".join(entry["aliases"]) or None,
            entry["here"],
        )
        for entry in entries
    ]
    heads = ("ADAPTER", "VERSION", "DIGEST", "VERDICT", "ALIASES", "HERE")
    return Answer(table(heads, rows), {"adapters": entries})


def fetch_pictures(
    address: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS",
            help="NAME@VERSION, or NAME@VERSION/pictures/FILE as in the reasons of a verdict.",
        ),
    ],
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Policy of the evaluation. Default: the newest evaluation."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Output folder. Default: a folder in $ATELIER_HOME."),
    ] = None,
) -> Answer:
    """Fetch the stored pictures of an evaluation, its contact sheet and its report.

    MLflow stores the first picture of each prompt and the pictures that the reasons name.
    """
    from atelier.data.policy import Policy
    from atelier.stores.registry import Registry
    from pipelines.evaluate import (
        PictureAddress,
        download,
        download_folder,
        judged_version,
        stored_picture,
    )

    home, wanted = Home.find(), PictureAddress.parse(address)
    registry = Registry(home.tracking_uri)
    info = registry.version(wanted.name, wanted.version)
    under = Policy.load(policy).digest if policy else None
    judged = judged_version(registry, info, under, how="evaluate it with `atelier evaluate`")
    folder = output or download_folder(home, judged)
    if wanted.picture:
        files = [stored_picture(registry, info, judged, wanted.picture, folder)]
    else:
        files = list(download(registry, info, judged, folder))
    measured = {folder / item.picture: item for item in judged.measures.pictures}
    rows = [(file, measured[file].prompt, measured[file].seed) for file in files]
    pictures = [
        {"file": str(file), "prompt": prompt, "seed": seed, "values": measured[file].values}
        for file, prompt, seed in rows
    ]
    data = {"adapter": info.name, "version": info.version, "output": str(folder)}
    return Answer(table(("FILE", "PROMPT", "SEED"), rows), {**data, "pictures": pictures})


def inspect(adapter: Reference) -> Answer:
    """Verify an adapter and show its metadata."""
    from commands.adapter_references import AdapterReference, resolve

    resolved = resolve(AdapterReference.parse(adapter), Home.find())
    package, manifest, version = resolved.package, resolved.package.manifest, resolved.version
    components = Counter(module.partition(".")[0] for module in package.lora())
    size = sum(file.stat().st_size for file in package.path.iterdir())
    fields = [
        ("adapter", manifest.name + (f", version {version}" if version else "")),
        ("digest", package.digest),
        ("kind", f"{manifest.kind}, rank {manifest.rank}, alpha {manifest.alpha:g}"),
        (
            "projections",
            ", ".join(f"{number} in {component}" for component, number in components.items()),
        ),
        ("base", f"{manifest.base.id} ({short(manifest.base.digest)})"),
        ("trigger", manifest.trigger or "-"),
        ("class", manifest.noun or "-"),
        ("styles", ", ".join(manifest.styles) or "-"),
        ("dataset", short(manifest.dataset)),
        ("recipe", short(manifest.recipe)),
        ("git commit", manifest.git_commit or "-"),
        ("size", f"{size / 1e6:.1f} MB in {package.path}"),
    ]
    data = {
        "path": str(package.path),
        "digest": package.digest,
        "version": version,
        "projections": dict(components),
        "bytes": size,
        "manifest": manifest.content(),
    }
    return Answer("\n".join(f"{key:12} {value}" for key, value in fields), data)


def import_adapter(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="LoRA file (.safetensors).")],
    name: Annotated[str, typer.Option(help="Name of the adapter.")],
    base: Annotated[str, typer.Option(help="Base that it was trained on: a folder or a hub ID.")],
    trigger: Annotated[str, typer.Option(help="Trigger words.")] = "",
    noun: Annotated[
        str | None, typer.Option("--class", help="Class of its subject, such as cat.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Package folder. Default: a folder in $ATELIER_HOME."),
    ] = None,
    register: Annotated[bool, typer.Option(help="Register the package as a version.")] = False,
) -> Answer:
    """Convert a LoRA file (kohya, diffusers or PEFT) into a package."""
    from atelier.adapter.conversion import import_lora
    from atelier.data.manifest import BaseRef
    from atelier.stores.base_files import base_digest, base_files, resolve_base
    from atelier.stores.registry import Registry

    home = Home.find()
    folder = output or home.root / "imported" / name
    base_folder = resolve_base(base)
    package = import_lora(
        file,
        folder,
        name=name,
        base=BaseRef(id=base, digest=base_digest(base_folder)),
        base_files=base_files(base_folder),
        trigger=trigger,
        noun=noun,
    )
    version = None
    if register:
        tags = {"atelier.imported_from": file.name}
        version = Registry(home.tracking_uri).register(package, run_id=None, tags=tags)
    text = f"{package.path}  {short(package.digest)}" + (f"  version {version}" if version else "")
    data = {"path": str(package.path), "digest": package.digest, "version": version}
    return Answer(text, data)


def export(
    adapter: Reference,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write (.safetensors).")],
    form: Annotated[
        str, typer.Option("--format", help="File format: peft (for diffusers) or kohya.")
    ] = "peft",
) -> Answer:
    """Write an adapter to one .safetensors file for other tools."""
    from atelier.adapter.conversion import export_lora
    from commands.adapter_references import AdapterReference, resolve

    package = resolve(AdapterReference.parse(adapter), Home.find()).package
    export_lora(package, out, form)
    return Answer(
        f"{out}: {package.manifest.name} as {form}",
        {"file": str(out), "format": form, "digest": package.digest},
    )
