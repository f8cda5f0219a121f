"""The networks a verdict leans on: a CLIP for words and pictures, a DINO to tell individuals apart.

Both are named by the operator's policy, as folders, hub ids or addresses in the registry
(`mlflow://scorers/<hex>`: pinned by digest, for clusters), and load by transformers' Auto classes:
`openai/clip-vit-large-patch14` and `facebook/dino-vits16` for the real base.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from atelier.data.names import SCHEME, ArtifactRef
from atelier.errors import BadInput, PolicyError
from atelier.files import digest_folder, digest_json
from atelier.home import Home
from atelier.stores.artifacts import Artifacts

BATCH: Final = 32


class Scorers:
    """Both networks, in evaluation mode on one device."""

    def __init__(self, names: Mapping[str, str], device: str = "cpu"):
        import torch  # heavy, both: only where pictures are really judged
        import transformers

        self.names = {"clip": str(names["clip"]), "dino": str(names["dino"])}
        self._places = {role: located(name) for role, name in self.names.items()}
        self.device = device
        self._clip = self._load("clip", transformers.CLIPModel.from_pretrained, dtype=torch.float32)
        self._clip_pixels = self._load("clip", transformers.AutoImageProcessor.from_pretrained)
        self._words = self._load("clip", transformers.AutoTokenizer.from_pretrained)
        self._dino = self._load("dino", transformers.AutoModel.from_pretrained, dtype=torch.float32)
        self._dino_pixels = self._load("dino", transformers.AutoImageProcessor.from_pretrained)

    def _load(self, role: str, loader: Callable[..., Any], **how: Any) -> Any:
        try:
            with _quiet():
                loaded = loader(self._places[role], **how)
        except (OSError, ValueError) as error:
            name, why = self.names[role], str(error).splitlines()[0]
            kind = (
                "folder" if Path(name).is_dir() else f"no folder in {Path.cwd()}, and as a hub id"
            )
            raise PolicyError(
                f"scorers.{role}: {name} ({kind}) cannot be loaded ({why}); "
                "name a folder or a hub id in the policy"
            ) from error
        return loaded.eval().to(self.device) if hasattr(loaded, "parameters") else loaded

    @property
    def digests(self) -> dict[str, str]:
        """What the names stood for: a folder's digest, or the commit a hub id resolved to."""
        return {role: _digest(place, self._config(role)) for role, place in self._places.items()}

    def _config(self, role: str) -> Any:
        return (self._clip if role == "clip" else self._dino).config

    def dino(self, images: Sequence[Image.Image]) -> np.ndarray:
        """[images, features]: the class token of a vision transformer, else the pooled features."""
        return self._batched(images, self._dino_batch)

    def clip_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """[images, features] in CLIP's shared space."""
        return self._batched(images, self._clip_batch)

    def clip_texts(self, texts: Sequence[str]) -> np.ndarray:
        """[texts, features] in CLIP's shared space; a text beyond CLIP's window is cut."""
        unique = list(dict.fromkeys(texts))
        rows = dict(zip(unique, self._batched(unique, self._text_batch), strict=True))
        return np.stack([rows[text] for text in texts])

    def _batched(self, items: Sequence[Any], embed: Callable[[list[Any]], Any]) -> np.ndarray:
        import torch

        rows = []
        with torch.inference_mode():
            for start in range(0, len(items), BATCH):
                features = embed(list(items[start : start + BATCH])).float()
                rows.append(torch.nn.functional.normalize(features, dim=-1).cpu().numpy())
        return np.concatenate(rows)

    def _dino_batch(self, images: list[Image.Image]) -> Any:
        pixels = self._dino_pixels([image.convert("RGB") for image in images], return_tensors="pt")
        output = self._dino(pixel_values=pixels["pixel_values"].to(self.device))
        if output.last_hidden_state.ndim == 3:  # a ViT; DINO's pooler is not trained
            return output.last_hidden_state[:, 0]
        return output.pooler_output.flatten(1)

    def _clip_batch(self, images: list[Image.Image]) -> Any:
        pixels = self._clip_pixels([image.convert("RGB") for image in images], return_tensors="pt")
        output = self._clip.get_image_features(pixel_values=pixels["pixel_values"].to(self.device))
        return getattr(output, "pooler_output", output)  # transformers 5 wraps it

    def _text_batch(self, texts: list[str]) -> Any:
        longest = self._clip.config.text_config.max_position_embeddings
        tokens = self._words(
            texts, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(self.device)
        output = self._clip.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        return getattr(output, "pooler_output", output)


def located(name: str) -> str:
    """Where a scorer is loaded from: one that a policy pins by digest is fetched and kept."""
    if not name.startswith(SCHEME):
        return name
    ref, home = ArtifactRef.parse(name), Home.find()
    if ref.kind != "scorers":
        raise PolicyError(f"scorers: {name} is no scorer; register one by `atelier scorer import`")
    kept = home.root / "artifacts" / ref.kind / ref.key
    return str(Artifacts(home.tracking_uri).get(ref, kept))


@contextmanager
def _quiet() -> Iterator[None]:
    """Loading prints bars, and a table about the ViT's pooler, which is left out on purpose."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _digest(name: str, config: Any) -> str:
    folder = Path(name)
    if folder.is_dir():
        return digest_folder(folder)
    commit = getattr(config, "_commit_hash", None)
    if not commit:
        raise BadInput(f"scorer {name}: neither a folder nor a hub id with a known commit")
    return digest_json({"hub": name, "commit": commit})
