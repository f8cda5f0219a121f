"""The files to load of a model's folder: configuration, and weights in safetensors.

diffusers and transformers fall back to pickles, load other precisions, and follow files that a
configuration names. A digest covers exactly the files chosen by this module, and a loader sees only
them (`only`). The digest therefore covers every loaded file, and no pickle is loaded.
"""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from atelier.errors import BadInput, BaseError

CONFIG = "config.json"
_INDEX = ".safetensors.index.json"
_PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
_TEXTS = ("*.json", "*.txt", "*.model")  # of tokenizers and image processors
# The networks of scorers in ONNX. A folder contains all files of one entry.
DETECTOR, EMBEDDER, SALIENCY = "detector.onnx", "embedder.onnx", "saliency.onnx"
ONNX_SCORERS = {"faces": (DETECTOR, EMBEDDER), "saliency": (SALIENCY,)}
# Excluded: indices of weights in other formats, and the configuration of an adapter,
# which names weights in another place.
_OTHER_TEXTS = ("*.index.json", "adapter_config.json")


@dataclass(frozen=True)
class ModelClass:
    """The class that loads a component; its library determines the names of the files."""

    library: str  # diffusers or transformers
    name: str

    @property
    def stem(self) -> str:
        """The beginning of the names of weight files."""
        return "diffusion_pytorch_model" if self.library == "diffusers" else "model"

    @property
    def patterns(self) -> tuple[str, ...]:
        """The possible names of files to load; other precisions have other names."""
        stem = self.stem
        return (CONFIG, f"{stem}.safetensors", f"{stem}{_INDEX}", f"{stem}-*-of-*.safetensors")

    def conversion(self, folder: Path, option: str) -> str:
        """Return the command that converts the weights in a folder to safetensors."""
        code = (
            f"from {self.library} import {self.name} as M; "
            f"M.from_pretrained('{folder}', {option}).save_pretrained('{folder}')"
        )
        return f'python -c "{code}"'


def model_files(folder: Path, cls: ModelClass, label: str) -> list[Path]:
    """Return configuration and weights of a model. Raises BaseError, beginning with `label`."""
    if not (folder / CONFIG).is_file():
        raise BaseError(f"{label}: {folder} has no {CONFIG}; fetch the model again")
    return [folder / CONFIG, *weight_files(folder, cls, label)]


def onnx_files(folder: Path, label: str) -> list[Path]:
    """Return the networks of a scorer in ONNX, or [] for a scorer in safetensors.

    Raises BaseError, beginning with `label`, if one is missing or has another name.
    """
    present = {file.name for file in folder.glob("*.onnx")}
    for kind, names in ONNX_SCORERS.items():
        missing = [name for name in names if name not in present]
        if not missing:
            return [folder / name for name in names]
        if len(missing) < len(names):
            raise BaseError(
                f"{label}: {folder} has no {missing[0]}; a scorer of {kind} needs "
                f"{' and '.join(names)}"
            )
    if present and not (folder / CONFIG).is_file():
        needs = "; ".join(f"{' and '.join(names)} ({k})" for k, names in ONNX_SCORERS.items())
        raise BaseError(
            f"{label}: {folder} has only {', '.join(sorted(present))}; rename the networks: {needs}"
        )
    return []


def weight_files(folder: Path, cls: ModelClass, label: str) -> list[Path]:
    """Return one file of weights in safetensors, or an index and the files that it names.

    Raises BaseError, beginning with `label`, if there is neither; if there are weights in another
    format, the text gives the command that converts them.
    """
    whole, index = (folder / f"{cls.stem}{ending}" for ending in (".safetensors", _INDEX))
    if whole.is_file() and index.is_file():
        raise BaseError(
            f"{label}: {folder} has both {whole.name} and {index.name}, and libraries differ in "
            "which one they load; remove one"
        )
    if whole.is_file():
        return [whole]
    if index.is_file():
        return [index, *_shards(index, label)]
    raise BaseError(f"{label}: {_without_weights(folder, cls)}")


def text_files(folder: Path) -> list[Path]:
    """Return the files of a tokenizer or an image processor."""
    texts = {file for pattern in _TEXTS for file in folder.glob(pattern) if file.is_file()}
    return sorted(file for file in texts if not any(map(file.match, _OTHER_TEXTS)))


@contextmanager
def only(folder: Path, files: Iterable[Path]) -> Iterator[Path]:
    """Yield a temporary folder with links to only these files of `folder`, for a loader.

    A BadInput that the block raises names the real folder.
    """
    with TemporaryDirectory(prefix="atelier-") as name:
        view = Path(name)
        for file in files:
            link = view / file.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.absolute())
        try:
            yield view
        except BadInput as error:
            raise type(error)(str(error).replace(name, str(folder))) from error


def _shards(index: Path, label: str) -> list[Path]:
    """Return the files that an index names; they must be safetensors in its folder."""
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name]
        others = [name for name in names if not name.endswith(".safetensors")]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BaseError(f"{label}: {index} is not an index of weights; fetch it again") from error
    if not names or outside or others:
        wrong = ", ".join([*outside, *others]) or "no file"
        raise BaseError(
            f"{label}: {index} names {wrong}; only safetensors files beside the index are loaded; "
            "convert the weights"
        )
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise BaseError(
            f"{label}: {index} names {', '.join(missing)}, which is missing; fetch the model again"
        )
    return [index.parent / name for name in names]


def _without_weights(folder: Path, cls: ModelClass) -> str:
    """Return what a folder without loadable weights contains, and the fix."""
    present = sorted(file.name for file in folder.iterdir() if file.is_file())
    pickles = [name for name in present if name.endswith(_PICKLES)]
    wanted = f"{cls.stem}.safetensors"
    variant = next(
        (
            match[1]
            for name in present
            if (match := re.fullmatch(rf"{cls.stem}\.([\w-]+?)(-\d+-of-\d+)?\.safetensors", name))
        ),
        None,
    )
    if variant:
        convert = cls.conversion(folder, f"variant='{variant}'")
        return f"{folder} has no {wanted}, only the variant {variant}; convert it: {convert}"
    if pickles:
        convert = cls.conversion(folder, "use_safetensors=False")
        return (
            f"{folder} has no {wanted}, only {', '.join(pickles)}; loading a pickle runs code "
            f"that it contains, so convert it once, if you trust its source: {convert}"
        )
    return f"{folder} has no weights; add {wanted}"
