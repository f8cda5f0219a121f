"""DINO: distinguishes individuals of one class, and separates the subject from the background.

`AutoModel` loads the networks of all three papers: DINO's ViT and ResNet, DINOv2's ViT with and
without registers, DINOv3's ViT and ConvNeXt.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from .files import ScorerFiles
from .networks import BATCH, load_network, load_part, unit_rows


class DinoScorer:
    """An image encoder with its image processor."""

    def __init__(self, source: ScorerFiles, device: str):
        import transformers

        self._device = device
        with source.opened() as folder:
            self._model = load_network(source, folder, transformers.AutoModel, device)
            self._pixels = load_part(source, folder, transformers.AutoImageProcessor)

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return [images, features]: a ViT's class token, otherwise the pooled features."""
        return unit_rows(images, self._feature_batch)

    def patches(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """Return the features of each picture's patches, [rows, columns, features]."""
        import torch

        maps: list[np.ndarray] = []
        with torch.inference_mode():
            for start in range(0, len(images), BATCH):
                maps += self._patch_batch(list(images[start : start + BATCH]))
        return maps

    def _feature_batch(self, images: list[Image.Image]) -> Any:
        output = self._model(pixel_values=self._pixel_values(images))
        # The first token is the class token of a ViT, whose pooler DINO does not train. DINOv3's
        # ConvNeXt has its pooled features there.
        if output.last_hidden_state.ndim == 3:
            return output.last_hidden_state[:, 0]
        return output.pooler_output.flatten(1)

    def _patch_batch(self, images: list[Image.Image]) -> list[np.ndarray]:
        height, width = self._pixel_values(images[:1]).shape[-2:]
        # The whole picture, without the central crop that some processors make.
        whole = [image.resize((width, height), Image.Resampling.BICUBIC) for image in images]
        pixels = self._pixel_values(whole, do_resize=False, do_center_crop=False)
        hidden = self._model(pixel_values=pixels).last_hidden_state
        if hidden.ndim == 3:  # tokens
            first = 1 + getattr(self._model.config, "num_register_tokens", 0)
            hidden = hidden[:, first:]
            rows = round((hidden.shape[1] * height / width) ** 0.5)
            hidden = hidden.unflatten(1, (rows, -1))
        else:
            hidden = hidden.permute(0, 2, 3, 1)
        return list(hidden.float().cpu().numpy())

    def _pixel_values(self, images: list[Image.Image], **options: bool) -> Any:
        rgb = [image.convert("RGB") for image in images]
        return self._pixels(rgb, return_tensors="pt", **options)["pixel_values"].to(self._device)
