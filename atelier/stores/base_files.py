"""Which base model: where it lies, which files of it are loaded, and the digest over these.

An adapter is tied to that digest.
"""

import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atelier.errors import BaseError, Unavailable
from atelier.files import digest_files
from atelier.stores.model_files import ModelClass, model_files, text_files

DEFAULT_BASE = "models/miniature"  # of commands, in a checkout
INDEX = "model_index.json"
MODELS = {
    "unet": ModelClass("diffusers", "UNet2DConditionModel"),
    "vae": ModelClass("diffusers", "AutoencoderKL"),
    "text_encoder": ModelClass("transformers", "CLIPTextModel"),
    "text_encoder_2": ModelClass("transformers", "CLIPTextModelWithProjection"),
}
TOKENIZERS = ("tokenizer", "tokenizer_2")
SCHEDULER, _SCHEDULER_CONFIG = "scheduler", "scheduler_config.json"
_LOADED = (*MODELS, *TOKENIZERS, SCHEDULER)
_SCORER = ModelClass("transformers", "AutoModel")
_TEXT_PATTERNS = ("*.json", "*.txt", "*.model")  # of hub models


def resolve_base(model: str, revision: str | None = None) -> Path:
    """The folder of a base: a path (relative to the working directory), or a hub id to fetch."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise BaseError(f"base {model}: a folder has no revision; remove `revision`")
        base_files(folder)  # refused here, before a program is started for it
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
        folder = _snapshot("vae", vae, None, list(MODELS["vae"].patterns))
        with _of_hub():
            vae_files(folder)
    vae_files(folder)
    return folder


def vae_files(folder: Path) -> list[Path]:
    """The files of a VAE of its own that are loaded; BaseError where it has none to load."""
    return model_files(folder, MODELS["vae"], f"vae {folder}")


def scorer_files(model: str, revision: str | None = None) -> tuple[Path, list[Path]]:
    """The folder of a network that judges, and the files of it that are loaded."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if _looks_local(model):
            raise BaseError(f"scorer {model}: no such folder (seen from {Path.cwd()})")
        folder = _snapshot("scorer", model, revision, [*_TEXT_PATTERNS, *_SCORER.patterns])
        with _of_hub():
            model_files(folder, _SCORER, f"scorer {model}")
    files = {*model_files(folder, _SCORER, f"scorer {model}"), *text_files(folder)}
    return folder, sorted(files)


def base_digest(folder: Path) -> str:
    """`sha256:<hex>` over the files of a base that are loaded."""
    return digest_files(Path(folder), base_files(folder))


def base_files(folder: Path) -> list[Path]:
    """`model_index.json` and the files of its components that are loaded, and no others.

    BaseError names the component whose weights are not in safetensors, and how to convert them.
    """
    folder = Path(folder)
    files = [folder / INDEX]
    for name in _components(folder):
        inside = folder / name
        if name in MODELS:
            files += model_files(inside, MODELS[name], f"base {folder}: {name}")
        elif name == SCHEDULER:
            files += [file for file in [inside / _SCHEDULER_CONFIG] if file.is_file()]
        else:
            files += text_files(inside)
    return files


def _components(folder: Path) -> list[str]:
    """The sub-folders of those components that `model_index.json` names and that are loaded."""
    index = folder / INDEX
    try:
        parsed: Any = json.loads(index.read_bytes())
    except FileNotFoundError:
        raise BaseError(
            f"base {folder}: no {INDEX}; a base is a folder in diffusers' format"
        ) from None
    except ValueError as error:
        raise BaseError(f"base {index}: not JSON ({error}); fetch it again") from error
    names = _named(parsed)
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing or not names:
        lacking = ", ".join(missing) or "every component"
        raise BaseError(f"base {folder}: {INDEX} names {lacking}, but no such folder is there")
    return names


def _named(index: Any) -> list[str]:
    """The components to load that an index names; one left out is `[null, null]` there."""
    found = index if isinstance(index, dict) else {}
    return [name for name in _LOADED if isinstance(found.get(name), list) and any(found[name])]


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
    wanted = [INDEX]
    for name in _named(json.loads(index.read_bytes())):
        patterns = MODELS[name].patterns if name in MODELS else _TEXT_PATTERNS
        wanted += [f"{name}/{pattern}" for pattern in patterns]
    folder = _snapshot("base", model, revision, wanted)
    with _of_hub():
        base_files(folder)
    return folder


@contextmanager
def _of_hub() -> Iterator[None]:
    """What is missing in a snapshot may be on the hub in a form that is not fetched."""
    try:
        yield
    except BaseError as error:
        raise BaseError(
            f"{error}. The hub may have it as a pickle or a variant, which are not fetched: load "
            "the model with its library, write it into a folder by `save_pretrained`, and give "
            "that folder"
        ) from error


def _snapshot(kind: str, model: str, revision: str | None, patterns: list[str]) -> Path:
    """Those files of a hub model, from the cache or the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
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
