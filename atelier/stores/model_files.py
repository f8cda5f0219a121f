"""Which files of a model's folder are loaded: its configuration, and its weights in safetensors.

diffusers and transformers fall back to pickles, take other precisions, and follow files that a
configuration names. A digest is over exactly the files that are named here, and a loader is shown
only them (`only`), so nothing is loaded that the digest does not cover, and nothing is unpickled.
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
# What has a text's ending and is none of the model's own: indices of weights in other formats, and
# the word of an adapter, which names weights that lie elsewhere.
_OTHER_TEXTS = ("*.index.json", "adapter_config.json")


@dataclass(frozen=True)
class ModelClass:
    """The class that loads a component: its library decides how the files are called."""

    library: str  # diffusers or transformers
    name: str

    @property
    def stem(self) -> str:
        """How the files of the weights begin."""
        return "diffusion_pytorch_model" if self.library == "diffusers" else "model"

    @property
    def patterns(self) -> tuple[str, ...]:
        """Every name that a file to be loaded may have; other precisions have other names."""
        stem = self.stem
        return (CONFIG, f"{stem}.safetensors", f"{stem}{_INDEX}", f"{stem}-*-of-*.safetensors")

    def conversion(self, folder: Path, option: str) -> str:
        """The command that writes weights in safetensors into a folder that has others."""
        code = (
            f"from {self.library} import {self.name} as M; "
            f"M.from_pretrained('{folder}', {option}).save_pretrained('{folder}')"
        )
        return f'python -c "{code}"'


def model_files(folder: Path, cls: ModelClass, label: str) -> list[Path]:
    """The configuration and the weights of a model; BaseError begins with `label`."""
    if not (folder / CONFIG).is_file():
        raise BaseError(f"{label}: {folder} has no {CONFIG}")
    return [folder / CONFIG, *weight_files(folder, cls, label)]


def weight_files(folder: Path, cls: ModelClass, label: str) -> list[Path]:
    """One file of weights in safetensors, or an index and the files it names.

    Raises BaseError, which begins with `label`, where there is neither, and says how to convert
    what is there instead.
    """
    whole, index = (folder / f"{cls.stem}{ending}" for ending in (".safetensors", _INDEX))
    if whole.is_file() and index.is_file():
        raise BaseError(
            f"{label}: {folder} has both {whole.name} and {index.name}, and libraries differ in "
            "which of them they load; remove one"
        )
    if whole.is_file():
        return [whole]
    if index.is_file():
        return [index, *_shards(index, label)]
    raise BaseError(f"{label}: {_without_weights(folder, cls)}")


def text_files(folder: Path) -> list[Path]:
    """The files of a tokenizer or an image processor."""
    found = {file for pattern in _TEXTS for file in folder.glob(pattern) if file.is_file()}
    return sorted(file for file in found if not any(map(file.match, _OTHER_TEXTS)))


@contextmanager
def only(folder: Path, files: Iterable[Path]) -> Iterator[Path]:
    """A folder that holds links to these files of `folder` and nothing else, for a loader.

    An error of bad input names the real folder.
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
    """The files that an index names: in its own folder, and in safetensors like itself."""
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name]
        others = [name for name in names if not name.endswith(".safetensors")]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BaseError(f"{label}: {index} is no index of weights; fetch it again") from error
    if not names or outside or others:
        wrong = ", ".join([*outside, *others]) or "no file"
        raise BaseError(f"{label}: {index} names {wrong}; only safetensors beside it are loaded")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise BaseError(f"{label}: {index} names {', '.join(missing)}, which is missing")
    return [index.parent / name for name in names]


def _without_weights(folder: Path, cls: ModelClass) -> str:
    """What a folder has in place of weights that can be loaded, and the way out."""
    present = sorted(file.name for file in folder.iterdir() if file.is_file())
    pickles = [name for name in present if name.endswith(_PICKLES)]
    wanted = f"{cls.stem}.safetensors"
    variant = next(
        (
            found[1]
            for name in present
            if (found := re.fullmatch(rf"{cls.stem}\.([\w-]+?)(-\d+-of-\d+)?\.safetensors", name))
        ),
        None,
    )
    if variant:
        convert = cls.conversion(folder, f"variant='{variant}'")
        return f"{folder} has no {wanted}, only the variant {variant}; convert it: {convert}"
    if pickles:
        convert = cls.conversion(folder, "use_safetensors=False")
        return (
            f"{folder} has no {wanted}, only {', '.join(pickles)}, and loading a pickle runs code "
            f"that it holds; convert it once, if you trust its source: {convert}"
        )
    return f"{folder} has no weights; {wanted} is needed"
