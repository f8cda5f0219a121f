"""Converts SSCD's published weights to the folder that `copy_descriptor.py` loads.

The file must be a plain state dict for torchvision's ResNet-50 (`sscd_disc_mixup.torchvision.pt`).
Reading it runs no code that it contains.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from atelier.adapter.safetensors_file import write_tensors
from atelier.errors import BadInput
from atelier.files import replace_folder, staging
from atelier.stores.model_files import CONFIG

from .copy_descriptor import COUNTER, WEIGHTS, CopyConfig, copy_network, set_weights

_PREFIX: Final = "backbone."  # of the ResNet within the published class
_FIX: Final = "give a `.torchvision.pt` file with a ResNet-50 from the SSCD project"


def convert(file: Path, folder: Path) -> None:
    """Write `folder` from the published file. Raises BadInput if the file has other tensors."""
    if folder.exists():
        raise BadInput(f"{folder}: exists already; give a new folder, or remove this one")
    weights, config = _weights(file), CopyConfig()
    try:
        set_weights(copy_network(config), weights)
    except BadInput as error:
        raise BadInput(f"{file}: {error}; {_FIX}") from error
    with staging(folder) as aside:
        write_tensors(aside / WEIGHTS, weights)
        (aside / CONFIG).write_text(config.model_dump_json(indent=2) + "\n")
        replace_folder(aside, folder)


def _weights(file: Path) -> dict[str, np.ndarray]:
    """Return the tensors of the file as float32, by torchvision's names."""
    import torch

    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BadInput(f"{file}: cannot be read ({error.strerror}); {_FIX}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
        raise BadInput(f"{file}: is not a plain state dict; {_FIX}") from error
    if not isinstance(content, Mapping) or not all(map(torch.is_tensor, content.values())):
        raise BadInput(f"{file}: is not a plain state dict; {_FIX}")
    return {
        name.removeprefix(_PREFIX): tensor.float().numpy()
        for name, tensor in content.items()
        if not name.endswith(COUNTER)
    }
