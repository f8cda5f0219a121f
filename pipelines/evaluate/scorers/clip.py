"""CLIP: compares pictures with texts, and pictures with each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from .files import ScorerFiles
from .networks import load_network, load_part, unit_rows


class ClipScorer:
    """A `CLIPModel` with its tokenizer and image processor."""

    def __init__(self, source: ScorerFiles, device: str):
        import transformers

        self._device = device
        with source.opened() as folder:
            self._model = load_network(source, folder, transformers.CLIPModel, device)
            self._pixels = load_part(source, folder, transformers.AutoImageProcessor)
            self._tokenizer = load_part(source, folder, transformers.AutoTokenizer)

    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return [images, features] in CLIP's shared space."""
        return unit_rows(images, self._image_batch)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return [texts, features] in CLIP's shared space; long texts are truncated."""
        unique = list(dict.fromkeys(texts))
        rows = dict(zip(unique, unit_rows(unique, self._text_batch), strict=True))
        return np.stack([rows[text] for text in texts])

    def _image_batch(self, images: list[Image.Image]) -> Any:
        pixels = self._pixels([image.convert("RGB") for image in images], return_tensors="pt")
        output = self._model.get_image_features(
            pixel_values=pixels["pixel_values"].to(self._device)
        )
        return getattr(output, "pooler_output", output)  # transformers 5 returns an output object

    def _text_batch(self, texts: list[str]) -> Any:
        longest = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(self._device)
        output = self._model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        return getattr(output, "pooler_output", output)
