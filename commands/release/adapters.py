"""`atelier adapters`: list, inspect, import and export adapters."""

from pathlib import Path
from typing import Annotated, Any

import typer

from atelier.home import Home
from commands.table import short, table
from commands.verb import Answer

What = Annotated[str, typer.Argument(metavar="ADAPTER", help="NAME[@VERSION] or a folder.")]


def list_adapters() -> Answer:
    """List the registry's adapters and versions, and show which versions serve here."""
    from atelier.data.release import ReleaseFolder
    from commands.adapter_references import open_registry

    home = Home.find()
    registry = open_registry(home)
    releases = ReleaseFolder(home.releases).list()
    entries: list[dict[str, Any]] = []
    for name in registry.adapters():
        release = releases.get(name)
        for one in registry.versions(name):
            serving = release is not None and release.version == one.version
            entries.append(
                {
                    "adapter": name,
                    "version": one.version,
                    "digest": one.digest,
                    "aliases": sorted(one.aliases),
                    "serving": serving,
                }
            )
    rows = [
        (
            one["adapter"],
            one["version"],
            short(one["digest"]),
            ", ".join(one["aliases"]) or None,
            "serving" if one["serving"] else None,
        )
        for one in entries
    ]
    heads = ("ADAPTER", "VERSION", "DIGEST", "ALIASES", "HERE")
    return Answer(table(heads, rows), {"adapters": entries})


def inspect(what: What) -> Answer:
    """Verify an adapter and show its metadata."""
    from commands.adapter_references import AdapterReference, find

    found = find(AdapterReference.parse(what), Home.find())
    package, manifest = found.package, found.package.manifest
    lora = package.lora()
    components: dict[str, int] = {}
    for module in lora:
        component = module.split(".", 1)[0]
        components[component] = components.get(component, 0) + 1
    size = sum(file.stat().st_size for file in package.path.iterdir())
    told = [
        ("adapter", manifest.name + (f", version {found.version}" if found.version else "")),
        ("digest", package.digest),
        ("kind", f"{manifest.kind}, rank {manifest.rank}, alpha {manifest.alpha:g}"),
        ("projections", ", ".join(f"{count} in {name}" for name, count in components.items())),
        ("base", f"{manifest.base.id} ({short(manifest.base.digest)})"),
        ("trigger", manifest.trigger or "-"),
        ("styles", ", ".join(manifest.styles) or "-"),
        ("dataset", short(manifest.dataset)),
        ("recipe", short(manifest.recipe)),
        ("git commit", manifest.git_commit or "-"),
        ("size", f"{size / 1e6:.1f} MB in {package.path}"),
    ]
    data = {
        "path": str(package.path),
        "digest": package.digest,
        "version": found.version,
        "projections": components,
        "bytes": size,
        "manifest": manifest.model_dump(mode="json"),
    }
    return Answer("\n".join(f"{key:12} {value}" for key, value in told), data)


def import_adapter(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The LoRA file (.safetensors).")],
    name: Annotated[str, typer.Option(help="Name of the adapter.")],
    base: Annotated[str, typer.Option(help="Base that it was made for: a folder or a hub id.")],
    trigger: Annotated[str, typer.Option(help="Trigger words.")] = "",
    class_prompt: Annotated[
        str | None, typer.Option(help='Prompt for its class: "a photo of a cat".')
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Package folder. Default: inside the home.")
    ] = None,
    register: Annotated[bool, typer.Option(help="Also register it as a version.")] = False,
) -> Answer:
    """Convert a LoRA file (kohya, diffusers or PEFT) into a package."""
    from commands.adapter_references import open_registry
    from commands.release.adapter_files import package_from

    home = Home.find()
    folder = output or home.root / "imported" / name
    package = package_from(
        file, folder, name=name, base=base, trigger=trigger, class_prompt=class_prompt
    )
    version = None
    if register:
        tags = {"atelier.imported_from": file.name}
        version = open_registry(home).register(package, run_id=None, tags=tags)
    text = f"{package.path}  {short(package.digest)}" + (f"  version {version}" if version else "")
    data = {"path": str(package.path), "digest": package.digest, "version": version}
    return Answer(text, data)


def export(
    what: What,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The .safetensors file to write.")],
    form: Annotated[
        str, typer.Option("--format", help="File format: peft (diffusers loads it) or kohya.")
    ] = "peft",
) -> Answer:
    """Write an adapter as one .safetensors file for other tools."""
    from commands.adapter_references import AdapterReference, find
    from commands.release.adapter_files import write_for_others

    found = find(AdapterReference.parse(what), Home.find())
    write_for_others(found.package, out, form)
    return Answer(
        f"{out}: {found.package.manifest.name} as {form}",
        {"file": str(out), "format": form, "digest": found.package.digest},
    )
