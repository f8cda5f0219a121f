"""Conversion of adapter files from and to the formats of other tools.

Tensor names change; values do not. kohya's names replace the dots of the module path by
underscores, so reading them needs the list of the base's modules. The list comes from the headers
of the base's weight files; no weights are loaded.
"""

import difflib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from atelier.adapter import tensor_names
from atelier.adapter.low_rank import LoraWeights
from atelier.adapter.package import ADAPTER, Package, write_package
from atelier.adapter.safetensors_header import BASE_LIMITS, read_header
from atelier.adapter.single_file import read_single, tensors_of, write_kohya
from atelier.data.manifest import BaseRef
from atelier.errors import AdapterRejected, BadInput

FORMATS: Final = ("peft", "kohya")

Shape = tuple[int, ...]


def import_lora(
    file: Path,
    folder: Path,
    *,
    name: str,
    base: BaseRef,
    base_files: Iterable[Path],
    trigger: str = "",
    noun: str | None = None,
) -> Package:
    """Convert a LoRA file in any known format into the package `folder`.

    `base_files` are the files of `base`, each in its component's folder. `noun` is the class of the
    subject. Raises AdapterRejected, with the names of the modules, if the file does not fit the
    base.
    """
    shapes = projection_shapes(base_files)
    lora = read_single(file, shapes)
    _require_fit(lora, shapes, file, base.id)
    return write_package(
        folder,
        tensors_of(lora),
        name=name,
        base=base,
        trigger=trigger,
        noun=noun,
    )


def export_lora(package: Package, out: Path, form: str) -> None:
    """Write a package as one .safetensors file, in one of FORMATS.

    `load_lora_weights` of diffusers reads the format `peft`. Raises BadInput for another format,
    and for a package that does not fit into a single file.
    """
    if form not in FORMATS:
        near = difflib.get_close_matches(form, FORMATS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BadInput(f"format {form!r}: is not one of {', '.join(FORMATS)}{hint}")
    if package.manifest.kind != "lora":
        raise BadInput(
            f"{package.path}: kind {package.manifest.kind} has no single-file form; copy the folder"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    if form == "kohya":
        write_kohya(out, package.lora(), package.manifest)
    else:
        shutil.copyfile(package.path / ADAPTER, out)  # already in the format peft


def projection_shapes(base_files: Iterable[Path]) -> dict[str, Shape]:
    """Return [out_features, in_features] of each linear layer of a base, by canonical module."""
    shapes: dict[str, Shape] = {}
    for file in base_files:
        component = file.parent.name
        if file.suffix != ".safetensors" or component not in tensor_names.COMPONENTS:
            continue
        for tensor, entry in read_header(file, BASE_LIMITS).tensors.items():
            module, dot, ending = tensor.rpartition(".")
            if not dot or ending != "weight" or len(entry.shape) != 2:
                continue
            key = tensor_names.parse(f"{component}.{module}.lora_A.weight")
            if key is not None:
                shapes[key.module] = entry.shape
    return shapes


def _require_fit(
    lora: dict[str, LoraWeights], shapes: dict[str, Shape], file: Path, base: str
) -> None:
    misfits = [
        f"{module} ({_shape((pair.out_features, pair.in_features))}, the base has "
        f"{_shape(shapes.get(module))})"
        for module, pair in lora.items()
        if shapes.get(module) != (pair.out_features, pair.in_features)
    ]
    if misfits:
        raise AdapterRejected(
            f"{file}: {len(misfits)} of {len(lora)} projections do not fit base {base}: "
            f"{'; '.join(misfits[:4])}{' …' if len(misfits) > 4 else ''}; give the base that the "
            "adapter was trained on"
        )


def _shape(shape: Shape | None) -> str:
    return "none" if shape is None else " x ".join(map(str, shape))
