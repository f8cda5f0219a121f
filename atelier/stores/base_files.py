"""Base models: folder, files to load, and the digest over these files.

Every adapter's manifest contains the digest of its base.
"""

import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from atelier.errors import BaseError, Unavailable
from atelier.files import digest_files
from atelier.stores.model_files import (
    ONNX_SCORERS,
    ModelClass,
    model_files,
    onnx_files,
    text_files,
)

DEFAULT_BASE = "models/miniature"  # the default of commands that run in a checkout
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
    """Return the folder of a base, from a path (relative to the working directory) or a hub ID.

    Raises BaseError if the base is missing or incomplete, Unavailable if the hub cannot be reached.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise BaseError(f"base {model}: a folder has no revision; remove `revision`")
        base_files(folder)  # an early error, before another program starts
        return folder
    if folder.is_file():
        raise BaseError(
            f"base {model}: is a file; give the folder that contains {INDEX}, or a hub ID"
        )
    if _looks_local(model):
        near = difflib.get_close_matches(folder.name, _siblings(folder), n=1)
        hint = f"; did you mean {folder.parent / near[0]}?" if near else ""
        raise BaseError(
            f"base {model}: no such folder (relative to "
            f"{Path.cwd()}){hint or '; give a folder or a hub ID'}"
        )
    return _fetch(model, revision)


def resolve_vae(vae: str) -> Path:
    """Return the folder of a separate VAE: a path or a hub ID (`madebyollin/sdxl-vae-fp16-fix`).

    Raises BaseError if it is missing or incomplete, Unavailable if the hub cannot be reached.
    """
    folder = Path(vae).expanduser()
    if not folder.is_dir():
        if _looks_local(vae):
            raise BaseError(
                f"vae {vae}: no such folder (relative to {Path.cwd()}); give a folder or a hub ID"
            )
        folder = _snapshot("vae", vae, None, list(MODELS["vae"].patterns))
        with _of_hub():
            vae_files(folder)
    vae_files(folder)
    return folder


def vae_files(folder: Path) -> list[Path]:
    """Return the files to load of a separate VAE. Raises BaseError if some are missing."""
    return model_files(folder, MODELS["vae"], f"vae {folder}")


def scorer_files(model: str, revision: str | None = None) -> tuple[Path, list[Path]]:
    """Return the folder of a scorer, and the files to load: networks in safetensors or in ONNX.

    Raises BaseError if it is missing or incomplete, Unavailable if the hub cannot be reached.
    """
    folder = Path(model).expanduser()
    if folder.is_file():
        raise BaseError(
            f"scorer {model}: is a file; give a folder, and convert SSCD's published weights with "
            "`atelier scorer convert`"
        )
    if not folder.is_dir():
        if _looks_local(model):
            raise BaseError(
                f"scorer {model}: no such folder (relative to {Path.cwd()}); give a folder or a "
                "hub ID"
            )
        wanted = [*_TEXT_PATTERNS, *_SCORER.patterns, *chain(*ONNX_SCORERS.values())]
        folder = _snapshot("scorer", model, revision, wanted)
        with _of_hub():
            _scorer_networks(folder, model)
    return folder, sorted({*_scorer_networks(folder, model), *text_files(folder)})


def _scorer_networks(folder: Path, model: str) -> list[Path]:
    label = f"scorer {model}"
    return onnx_files(folder, label) or model_files(folder, _SCORER, label)


def base_digest(folder: Path) -> str:
    """Return `sha256:<hex>` over the files that `base_files` returns."""
    return digest_files(Path(folder), base_files(folder))


def base_files(folder: Path) -> list[Path]:
    """Return `model_index.json` and the files to load of its components.

    Raises BaseError if a component's weights are not in safetensors, with the command to convert
    them.
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
    """Return the names of the components to load, after checking their folders."""
    index = folder / INDEX
    try:
        parsed: Any = json.loads(index.read_bytes())
    except FileNotFoundError:
        raise BaseError(
            f"base {folder}: no {INDEX}; a base is a folder in diffusers' format"
        ) from None
    except ValueError as error:
        raise BaseError(f"base {index}: not JSON ({error}); fetch the base again") from error
    names = _named(parsed)
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing or not names:
        lacking = ", ".join(missing) or "every component"
        raise BaseError(
            f"base {folder}: {INDEX} names {lacking}, but there is no such folder; fetch the base "
            "again"
        )
    return names


def _named(index: Any) -> list[str]:
    """Return the components to load that an index names; it names absent ones as `[null, null]`."""
    entries = index if isinstance(index, dict) else {}
    return [name for name in _LOADED if isinstance(entries.get(name), list) and any(entries[name])]


def _looks_local(model: str) -> bool:
    """Return whether `model` is a path: not `owner/name`, or `owner` is a local folder."""
    path = Path(model)
    is_hub_id = len(path.parts) == 2 and not model.startswith((".", "/", "~"))
    return not is_hub_id or Path(path.parts[0]).is_dir()


def _siblings(folder: Path) -> list[str]:
    parent = folder.parent
    return [entry.name for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []


def _fetch(model: str, revision: str | None) -> Path:
    """Fetch a hub model: first its index, then only the components that it names."""
    index = _snapshot("base", model, revision, [INDEX]) / INDEX
    if not index.exists():
        raise BaseError(
            f"base {model}: the model on the hub has no {INDEX}; choose a model in diffusers' "
            "format"
        )
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
    """Add to a BaseError that the hub may have the missing files in an unsupported format."""
    try:
        yield
    except BaseError as error:
        raise BaseError(
            f"{error}. The hub may have the weights as a pickle or a variant, which are not "
            "fetched; load "
            "the model with its library, write it into a folder with `save_pretrained`, and give "
            "that folder"
        ) from error


def _snapshot(kind: str, model: str, revision: str | None, patterns: list[str]) -> Path:
    """Fetch the matching files of a hub model, from the cache or the network."""
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
            f"{kind} {model}{where}: neither a local folder nor a model on the hub that you may "
            "read; check the name, and set HF_TOKEN for a gated model"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise Unavailable(
            f"{kind} {model}: not a local folder, and the hub cannot be reached; "
            "check the name and the network, or give a folder"
        ) from error
