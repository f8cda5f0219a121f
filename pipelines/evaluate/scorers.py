"""The networks a verdict leans on: a CLIP for words and pictures, a DINO to tell individuals apart.

Both are named by the operator's policy, as folders, hub ids or addresses in the registry
(`mlflow://scorers/<hex>`: pinned by digest, for clusters), and load by transformers' Auto classes:
`openai/clip-vit-large-patch14` and `facebook/dino-vits16` for the real base.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from atelier.data.names import SCHEME, ArtifactRef
from atelier.errors import BaseError, PolicyError
from atelier.files import digest_files
from atelier.home import Home
from atelier.stores.artifacts import Artifacts
from atelier.stores.base_files import scorer_files
from atelier.stores.model_files import only

BATCH: Final = 32


class Scorers:
    """Both networks, in evaluation mode on one device."""

    def __init__(self, names: Mapping[str, str], device: str = "cpu"):
        import torch  # heavy, both: only where pictures are really judged
        import transformers

        self.names = {"clip": str(names["clip"]), "dino": str(names["dino"])}
        self._files = {role: _located(role, name) for role, name in self.names.items()}
        self.device = device
        weights = {"dtype": torch.float32, "use_safetensors": True}
        with ExitStack() as opened:
            clip, dino = (opened.enter_context(only(*self._files[r])) for r in ("clip", "dino"))
            self._clip = self._load("clip", clip, transformers.CLIPModel, **weights)
            self._clip_pixels = self._load("clip", clip, transformers.AutoImageProcessor)
            self._words = self._load("clip", clip, transformers.AutoTokenizer)
            self._dino = self._load("dino", dino, transformers.AutoModel, **weights)
            self._dino_pixels = self._load("dino", dino, transformers.AutoImageProcessor)

    def _load(self, role: str, folder: Path, cls: Any, **how: Any) -> Any:
        try:
            with _quiet():
                loaded = cls.from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=False, **how
                )
        except (OSError, ValueError) as error:
            why = str(error).splitlines()[0]
            raise PolicyError(
                f"scorers.{role}: {self.names[role]} cannot be loaded ({why}); "
                "name a folder or a hub id in the policy"
            ) from error
        return loaded.eval().to(self.device) if hasattr(loaded, "parameters") else loaded

    @property
    def digests(self) -> dict[str, str]:
        """By role, the digest over the files that were loaded."""
        return {role: digest_files(folder, files) for role, (folder, files) in self._files.items()}

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


def _located(role: str, name: str) -> tuple[Path, list[Path]]:
    """Where a scorer is loaded from, and its files; one pinned by digest is fetched and kept."""
    place = name
    if name.startswith(SCHEME):
        ref, home = ArtifactRef.parse(name), Home.find()
        if ref.kind != "scorers":
            raise PolicyError(
                f"scorers.{role}: {name} is no scorer; register one by `atelier scorer import`"
            )
        kept = home.root / "artifacts" / ref.kind / ref.key
        place = str(Artifacts(home.tracking_uri).get(ref, kept))
    try:
        return scorer_files(place)
    except BaseError as error:
        raise PolicyError(
            f"scorers.{role}: {error}; name a folder or a hub id in the policy"
        ) from error


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
