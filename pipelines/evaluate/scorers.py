"""Loads the scorers: CLIP compares pictures with texts, DINO distinguishes individuals of a class.

The policy names both scorers: as a folder, a hub ID, or an address in the registry, which pins the
files by digest (`mlflow://scorers/<hex>`). They are loaded with transformers' classes. For SDXL use
`openai/clip-vit-large-patch14` and `facebook/dino-vits16`.
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
    """Both networks, in evaluation mode on one device. Implements measures.Scorer.

    Raises PolicyError if a scorer cannot be found or loaded.
    """

    def __init__(self, names: Mapping[str, str], device: str = "cpu"):
        import torch  # both take seconds to import
        import transformers

        self.names = {"clip": str(names["clip"]), "dino": str(names["dino"])}
        self._files = {role: _located(role, name) for role, name in self.names.items()}
        self.device = device
        weights = {"dtype": torch.float32, "use_safetensors": True}
        with ExitStack() as opened:
            clip, dino = (opened.enter_context(only(*self._files[r])) for r in ("clip", "dino"))
            self._clip = self._load("clip", clip, transformers.CLIPModel, **weights)
            self._clip_pixels = self._load("clip", clip, transformers.AutoImageProcessor)
            self._tokenizer = self._load("clip", clip, transformers.AutoTokenizer)
            self._dino = self._load("dino", dino, transformers.AutoModel, **weights)
            self._dino_pixels = self._load("dino", dino, transformers.AutoImageProcessor)

    def _load(self, role: str, folder: Path, cls: Any, **options: Any) -> Any:
        try:
            with _quiet():
                loaded = cls.from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=False, **options
                )
        except (OSError, ValueError) as error:
            why = str(error).splitlines()[0]
            raise PolicyError(
                f"scorers.{role}: {self.names[role]} cannot be loaded ({why}); name a folder or a "
                "hub ID in the policy"
            ) from error
        return loaded.eval().to(self.device) if hasattr(loaded, "parameters") else loaded

    @property
    def digests(self) -> dict[str, str]:
        """The digest of the loaded files, by role."""
        return {role: digest_files(folder, files) for role, (folder, files) in self._files.items()}

    def dino(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return [images, features]: a ViT's class token, otherwise the pooled features."""
        return self._batched(images, self._dino_batch)

    def clip_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return [images, features] in CLIP's shared space."""
        return self._batched(images, self._clip_batch)

    def clip_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return [texts, features] in CLIP's shared space; long texts are truncated."""
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
        if output.last_hidden_state.ndim == 3:  # a ViT; DINO's pooler is untrained
            return output.last_hidden_state[:, 0]
        return output.pooler_output.flatten(1)

    def _clip_batch(self, images: list[Image.Image]) -> Any:
        pixels = self._clip_pixels([image.convert("RGB") for image in images], return_tensors="pt")
        output = self._clip.get_image_features(pixel_values=pixels["pixel_values"].to(self.device))
        return getattr(output, "pooler_output", output)  # transformers 5 returns an output object

    def _text_batch(self, texts: list[str]) -> Any:
        longest = self._clip.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(self.device)
        output = self._clip.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        return getattr(output, "pooler_output", output)


def _located(role: str, name: str) -> tuple[Path, list[Path]]:
    """Return a scorer's folder and files. A scorer in the registry is fetched into the home."""
    place = name
    if name.startswith(SCHEME):
        ref, home = ArtifactRef.parse(name), Home.find()
        if ref.kind != "scorers":
            raise PolicyError(
                f"scorers.{role}: {name} is not a scorer; import one with `atelier scorer import`"
            )
        folder = home.root / "artifacts" / ref.kind / ref.key
        place = str(Artifacts(home.tracking_uri).get(ref, folder))
    try:
        return scorer_files(place)
    except BaseError as error:
        raise PolicyError(
            f"scorers.{role}: {error}; name a folder or a hub ID in the policy"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress transformers' progress bars and its warning about the unused pooler of the ViT."""
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
