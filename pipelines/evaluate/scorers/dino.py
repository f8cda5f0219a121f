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

        self._source, self._device = source, device
        with source.opened() as folder:
            self._model = load_network(source, folder, transformers.AutoModel, device)
            self._pixels = load_part(source, folder, transformers.AutoImageProcessor)

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return [images, features]: a ViT's class token, otherwise the pooled features."""
        return unit_rows(images, self._feature_batch)

    def attention(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """Return a map for each picture, [rows, columns] of patches, whose sum is 1.

        It is the attention of the class token in the last layer, mean over the heads. Raises
        PolicyError if the network has none.
        """
        import torch

        self._require_attention()
        maps: list[np.ndarray] = []
        # Only this implementation returns the attention. It is set for this call alone, because
        # the features of the others differ in the last digits.
        usual = self._model.config._attn_implementation
        self._model.set_attn_implementation("eager")
        try:
            with torch.inference_mode():
                for start in range(0, len(images), BATCH):
                    maps += self._attention_batch(list(images[start : start + BATCH]))
        finally:
            self._model.set_attn_implementation(usual)
        return maps

    def _require_attention(self) -> None:
        if not hasattr(self._model.config, "num_attention_heads"):
            raise self._source.error(
                f"a {self._model.config.model_type} network has no attention, "
                "which scorers.saliency asks for",
                "name a ViT, or another scorers.saliency",
            )

    def _feature_batch(self, images: list[Image.Image]) -> Any:
        output = self._model(pixel_values=self._pixel_values(images))
        # The first token is the class token of a ViT, whose pooler DINO does not train. DINOv3's
        # ConvNeXt has its pooled features there.
        if output.last_hidden_state.ndim == 3:
            return output.last_hidden_state[:, 0]
        return output.pooler_output.flatten(1)

    def _attention_batch(self, images: list[Image.Image]) -> list[np.ndarray]:
        height, width = self._pixel_values(images[:1]).shape[-2:]
        # The whole picture, without the central crop that some processors make.
        whole = [image.resize((width, height), Image.Resampling.BICUBIC) for image in images]
        pixels = self._pixel_values(whole, do_resize=False, do_center_crop=False)
        config = self._model.config
        output = self._model(pixel_values=pixels, output_attentions=True)
        first = 1 + getattr(config, "num_register_tokens", 0)
        patches = output.attentions[-1][:, :, 0, first:].mean(dim=1)
        rows = patches / patches.sum(dim=1, keepdim=True)
        grid = (height // config.patch_size, width // config.patch_size)
        return [row.reshape(grid) for row in rows.float().cpu().numpy()]

    def _pixel_values(self, images: list[Image.Image], **options: bool) -> Any:
        rgb = [image.convert("RGB") for image in images]
        return self._pixels(rgb, return_tensors="pt", **options)["pixel_values"].to(self._device)
