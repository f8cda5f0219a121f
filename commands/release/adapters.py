"""`atelier adapters`: list, inspect, import and export adapters."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from atelier.home import Home
from commands.command import Answer
from commands.terminal import short, table

Reference = Annotated[str, typer.Argument(metavar="ADAPTER", help="NAME[@VERSION] or FOLDER.")]


def list_adapters() -> Answer:
    """List all versions, and mark those that serve on this machine."""
    from atelier.data.release import ReleaseFolder
    from atelier.stores.registry import Registry

    home = Home.find()
    registry = Registry(home.tracking_uri)
    releases = ReleaseFolder(home.releases).list()
    entries: list[dict[str, Any]] = []
    for name in registry.adapters():
        release = releases.get(name)
        for info in registry.versions(name):
            entries.append(
                {
                    "adapter": name,
                    "version": info.version,
                    "digest": info.digest,
                    "aliases": sorted(info.aliases),
                    "serving": release is not None and release.version == info.version,
                }
            )
    rows = [
        (
            entry["adapter"],
            entry["version"],
            short(entry["digest"]),
            ", ".join(entry["aliases"]) or None,
            "serving" if entry["serving"] else None,
        )
        for entry in entries
    ]
    heads = ("ADAPTER", "VERSION", "DIGEST", "ALIASES", "HERE")
    return Answer(table(heads, rows), {"adapters": entries})


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
        Path | None, typer.Option(metavar="DIR", help="Package folder. Default: in $ATELIER_HOME.")
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
