"""DINO's networks of three generations load, and give the feature that their papers compare."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from atelier.errors import PolicyError
from pipelines.evaluate.scorers.attention import AttentionSaliency, attended
from pipelines.evaluate.scorers.dino import DinoScorer
from pipelines.evaluate.scorers.files import ScorerFiles, located

SIDE = 32
VIT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 8,
    "image_size": SIDE,
}
CONVOLUTIONS = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}


def vit() -> tuple[torch.nn.Module, object]:
    size = {"height": SIDE, "width": SIDE}
    model = transformers.ViTModel(transformers.ViTConfig(**VIT), add_pooling_layer=False)
    return model, transformers.ViTImageProcessor(size=size)


def dinov2() -> tuple[torch.nn.Module, object]:
    model = transformers.Dinov2Model(transformers.Dinov2Config(**VIT | {"image_size": 40}))
    return model, bit()


def dinov2_registers() -> tuple[torch.nn.Module, object]:
    config = transformers.Dinov2WithRegistersConfig(**VIT, num_register_tokens=4)
    return transformers.Dinov2WithRegistersModel(config), bit()


def dinov3() -> tuple[torch.nn.Module, object]:
    config = transformers.DINOv3ViTConfig(**VIT, num_register_tokens=4)
    return transformers.DINOv3ViTModel(config), dinov3_processor()


def dinov3_convnext() -> tuple[torch.nn.Module, object]:
    config = transformers.DINOv3ConvNextConfig(**CONVOLUTIONS)
    return transformers.DINOv3ConvNextModel(config), dinov3_processor()


def resnet() -> tuple[torch.nn.Module, object]:
    config = transformers.ResNetConfig(embedding_size=8, **CONVOLUTIONS)
    return transformers.ResNetModel(config), bit()


def bit() -> object:
    """The processor of DINOv2: it crops the centre."""
    return transformers.BitImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": SIDE, "width": SIDE}
    )


def dinov3_processor() -> object:
    return transformers.DINOv3ViTImageProcessor(size={"height": SIDE, "width": SIDE})


WITH_ATTENTION = [vit, dinov2, dinov2_registers, dinov3]
Maker = Callable[[], tuple[torch.nn.Module, object]]


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 255, (3, 48, 48, 3), dtype=np.uint8)
    return [Image.fromarray(picture) for picture in pixels]


def saved(make: Maker, folder: Path) -> tuple[torch.nn.Module, object, ScorerFiles]:
    torch.manual_seed(0)
    model, processor = make()
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)  # type: ignore[attr-defined]
    return model, processor, located("dino", str(folder))


@pytest.mark.parametrize("make", [*WITH_ATTENTION, dinov3_convnext, resnet])
def test_every_dino_gives_its_class_token_or_its_pooled_features(
    make: Maker, pictures: list[Image.Image], tmp_path: Path
) -> None:
    model, processor, source = saved(make, tmp_path)
    found = DinoScorer(source, "cpu").features(pictures)
    with torch.inference_mode():
        output = model(**processor(pictures, return_tensors="pt"))  # type: ignore[operator]
    # A plain ViT's pooler is untrained, and left out here.
    pooled = output.last_hidden_state[:, :1] if make is vit else output.pooler_output
    expected = torch.nn.functional.normalize(pooled.flatten(1), dim=1).numpy()
    assert found.shape == (3, 16)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("make", WITH_ATTENTION)
def test_the_attention_covers_the_whole_picture_and_leaves_the_features_as_they_are(
    make: Maker, pictures: list[Image.Image], tmp_path: Path
) -> None:
    _, _, source = saved(make, tmp_path)
    scorer = DinoScorer(source, "cpu")
    before = scorer.features(pictures)
    maps = scorer.attention(pictures)
    assert [one.shape for one in maps] == [(4, 4)] * 3  # without class and register tokens
    assert all(one.sum() == pytest.approx(1, abs=1e-5) and one.min() > 0 for one in maps)
    assert np.array_equal(scorer.features(pictures), before)
    masks = AttentionSaliency(scorer).masks(pictures)
    assert all(mask.shape == (48, 48) and 0 < mask.mean() < 1 for mask in masks)


def test_convolutions_have_no_attention(tmp_path: Path) -> None:
    _, _, source = saved(resnet, tmp_path)
    with pytest.raises(PolicyError, match=r"scorers\.dino: .* resnet network has no attention"):
        AttentionSaliency(DinoScorer(source, "cpu"))


def test_a_mask_keeps_the_patches_with_most_of_the_attention() -> None:
    attention = np.full((4, 4), 0.3 / 12)
    attention[1:3, 1:3] = 0.7 / 4
    mask = attended(attention, (80, 40))
    assert mask.shape == (40, 80)
    assert mask[20, 40] and not mask[2, 2]
    assert mask.mean() < 0.5
