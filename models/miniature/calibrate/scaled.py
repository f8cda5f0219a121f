"""Makes an adapter with other weights or another dataset, as a mistake would."""

from pathlib import Path

import numpy as np

from atelier.adapter.package import Package, write_package


def relabelled(source: Package, folder: Path, dataset: str | None, scale: float) -> Package:
    """Write the weights of `source`, with B times `scale`, as an adapter of another dataset.

    A scale of 0 changes nothing in the pictures, and a large one breaks them.
    """
    if (folder / "manifest.json").exists():
        return Package.open(folder)
    manifest = source.manifest
    tensors = {}
    for module, pair in source.lora().items():
        tensors[f"{module}.lora_A.weight"] = pair.A
        tensors[f"{module}.lora_B.weight"] = pair.B * np.float32(scale)
        tensors[f"{module}.alpha"] = np.float32(pair.alpha)
    return write_package(
        folder,
        tensors,
        name=manifest.name,
        base=manifest.base,
        targets=manifest.targets,
        trigger=manifest.trigger,
        noun=manifest.noun,
        dataset=dataset,
    )
