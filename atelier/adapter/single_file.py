"""Adapters as single files, for exchange with other tools."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from atelier.adapter import tensor_names
from atelier.adapter.low_rank import LoraWeights, nominal, pair_up
from atelier.adapter.safetensors_file import Tensor, TensorFile, write_tensors
from atelier.data.manifest import Manifest
from atelier.errors import AdapterRejected


def read_single(path: Path, modules: Iterable[str]) -> dict[str, LoraWeights]:
    """Return the pairs of a diffusers, PEFT or kohya file, by canonical module.

    `modules` are the canonical names of the base's projections, which kohya's names need. Raises
    AdapterRejected if the file cannot be used.
    """
    try:
        kohya = tensor_names.kohya_modules(modules)
    except ValueError as error:
        raise AdapterRejected(
            f"{path}: cannot be matched to this base: {error}; give the base of the adapter"
        ) from error
    file = TensorFile(path)
    file.verify()
    return pair_up(file.tensors, file.metadata, place=str(path), kohya=kohya)


def tensors_of(lora: Mapping[str, LoraWeights]) -> dict[str, Tensor]:
    """Return pairs as canonical tensors, each with an `.alpha`, as `write_package` takes them."""
    tensors: dict[str, Tensor] = {}
    for module, pair in lora.items():
        tensors[f"{module}.lora_A.weight"] = pair.down
        tensors[f"{module}.lora_B.weight"] = pair.up
        tensors[f"{module}.alpha"] = np.array(pair.alpha, dtype=np.float32)
    return tensors


def write_kohya(path: Path, lora: Mapping[str, LoraWeights], manifest: Manifest) -> None:
    """Write pairs in the format of kohya's trainer, each with its alpha."""
    tensors: dict[str, Tensor] = {}
    for name, value in tensors_of(lora).items():
        key = tensor_names.parse(name)
        if key is not None:
            tensors[tensor_names.to_kohya(key)] = value
    rank, alpha = nominal(lora)
    metadata = {
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.title": manifest.name,
        "modelspec.trigger_phrase": manifest.trigger,
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
    }
    write_tensors(path, tensors, metadata)
