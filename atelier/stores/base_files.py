"""Which base model: where it lies, and the digest that an adapter is tied to."""

import difflib
import json
from pathlib import Path
from typing import Any

from atelier.errors import BaseError, Unavailable
from atelier.files import digest_files

INDEX = "model_index.json"
VAE_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
# What the loaders read, and nothing beside it: other precisions and other frameworks' weights may
# lie in the same folders without being the model that is served.
_PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors")
_VARIANTS = ("*.fp16.*", "*.fp32.*", "*.non_ema.*", "*.msgpack.*", "openvino_*")


def resolve_base(model: str, revision: str | None = None) -> Path:
    """The folder of a base: a path (relative to the working directory), or a hub id to fetch."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise BaseError(f"base {model}: a folder has no revision; remove `revision`")
        _components(folder)
        return folder
    if folder.is_file():
        raise BaseError(f"base {model}: is a file; give the folder that holds {INDEX}, or a hub id")
    if _looks_local(model):
        near = difflib.get_close_matches(folder.name, _siblings(folder), n=1)
        hint = f"; did you mean {folder.parent / near[0]}?" if near else ""
        raise BaseError(f"base {model}: no such folder (seen from {Path.cwd()}){hint}")
    return _fetch(model, revision)


def resolve_vae(vae: str) -> Path:
    """The folder of a VAE of its own: a path, or a hub id like `madebyollin/sdxl-vae-fp16-fix`."""
    folder = Path(vae).expanduser()
    if not folder.is_dir():
        if _looks_local(vae):
            raise BaseError(f"vae {vae}: no such folder (seen from {Path.cwd()})")
        folder = _snapshot("vae", vae, None, list(VAE_FILES))
    missing = [name for name in VAE_FILES if not (folder / name).is_file()]
    if missing:
        raise BaseError(f"vae {vae}: no {' and no '.join(missing)}; give an AutoencoderKL's folder")
    return folder


def scorer_files(model: str, revision: str | None = None) -> tuple[Path, list[Path]]:
    """The folder of a network that judges, and its files: a folder's all, or a hub model's few."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        files = [file for file in folder.rglob("*") if file.is_file()]
    elif _looks_local(model):
        raise BaseError(f"scorer {model}: no such folder (seen from {Path.cwd()})")
    else:
        folder = _snapshot("scorer", model, revision, list(_PATTERNS))
        files = [file for pattern in _PATTERNS for file in folder.glob(pattern)]
    if not any(file.suffix == ".safetensors" for file in files):
        raise BaseError(
            f"scorer {model}: no weights in safetensors; save it again with transformers' "
            "save_pretrained and give that folder"
        )
    return folder, files


def base_digest(folder: Path) -> str:
    """`sha256:<hex>` over the files that make a base."""
    return digest_files(Path(folder), base_files(folder))


def base_files(folder: Path) -> list[Path]:
    """`model_index.json` and the files of the components it names, as they are loaded.

    Read-mes, scorers and anything else in the folder are no part of the base.
    """
    folder = Path(folder)
    files = [folder / INDEX]
    for name in _components(folder):
        inside = folder / name
        found = {file for pattern in _PATTERNS for file in inside.glob(pattern)}
        files += [file for file in found if not any(map(file.match, _VARIANTS))]
    if not any(file.suffix == ".safetensors" for file in files):
        raise BaseError(
            f"base {folder}: no weights; safetensors without a variant (like `.fp16.`) are needed"
        )
    return files


def _components(folder: Path) -> list[str]:
    """The sub-folders that `model_index.json` names."""
    index = folder / INDEX
    try:
        parsed: Any = json.loads(index.read_bytes())
    except FileNotFoundError:
        raise BaseError(
            f"base {folder}: no {INDEX}; a base is a folder in diffusers' format"
        ) from None
    except ValueError as error:
        raise BaseError(f"base {index}: not JSON ({error}); fetch it again") from error
    names = [
        name
        for name, value in (parsed.items() if isinstance(parsed, dict) else ())
        if _is_part(value) and not name.startswith("_")
    ]
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing or not names:
        lacking = ", ".join(missing) or "every component"
        raise BaseError(f"base {folder}: {INDEX} names {lacking}, but no such folder is there")
    return names


def _is_part(value: Any) -> bool:
    """Whether an entry of the index names a component's classes: `[null, null]` is one left out."""
    return isinstance(value, list) and any(value)


def _looks_local(model: str) -> bool:
    """Whether a path was meant: the hub's ids are `owner/name`, and no folder here is an owner."""
    path = Path(model)
    is_hub_id = len(path.parts) == 2 and not model.startswith((".", "/", "~"))
    return not is_hub_id or Path(path.parts[0]).is_dir()


def _siblings(folder: Path) -> list[str]:
    parent = folder.parent
    return [one.name for one in parent.iterdir() if one.is_dir()] if parent.is_dir() else []


def _fetch(model: str, revision: str | None) -> Path:
    """A snapshot of a hub model: its index first, then only the components that it names."""
    index = _snapshot("base", model, revision, [INDEX]) / INDEX
    if not index.exists():
        raise BaseError(f"base {model}: the hub's model has no {INDEX}")
    names = [name for name, value in json.loads(index.read_bytes()).items() if _is_part(value)]
    wanted = [INDEX, *(f"{name}/{end}" for name in names for end in _PATTERNS)]
    folder = _snapshot("base", model, revision, wanted)
    _components(folder)
    return folder


def _snapshot(kind: str, model: str, revision: str | None, patterns: list[str]) -> Path:
    """Those files of a hub model, without variants, from the cache or the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(
            snapshot_download(
                model,
                revision=revision,
                allow_patterns=patterns,
                ignore_patterns=[f"*/{variant}" for variant in _VARIANTS],
            )
        )
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        where = f" at revision {revision}" if revision else ""
        raise BaseError(
            f"{kind} {model}{where}: neither a folder here nor a model on the hub that you may "
            "read (a gated one needs HF_TOKEN in the environment)"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise Unavailable(
            f"{kind} {model}: not a folder here, and the hub cannot be reached; "
            "check the name and the network, or give a folder"
        ) from error
