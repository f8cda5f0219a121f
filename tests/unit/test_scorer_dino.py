"""DINO's networks of three generations load, and give the feature that their papers compare."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from pipelines.evaluate.scorers.dino import DinoScorer
from pipelines.evaluate.scorers.files import ScorerFiles, located
from pipelines.evaluate.scorers.token_cut import TokenCut, subject

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


CONVOLUTIONAL = [dinov3_convnext, resnet]
EVERY = [vit, dinov2, dinov2_registers, dinov3, *CONVOLUTIONAL]
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


@pytest.mark.parametrize("make", EVERY)
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


@pytest.mark.parametrize("make", EVERY)
def test_the_patches_cover_the_whole_picture(
    make: Maker, pictures: list[Image.Image], tmp_path: Path
) -> None:
    _, _, source = saved(make, tmp_path)
    scorer = DinoScorer(source, "cpu")
    grid = 1 if make in CONVOLUTIONAL else SIDE // VIT["patch_size"]
    assert [one.shape for one in scorer.patches(pictures)] == [(grid, grid, 16)] * 3
    # A change in a corner, which some processors cut off, is seen in the patch there.
    changed = pictures[0].copy()
    changed.paste((0, 0, 0), (0, 0, 6, 6))
    difference = np.abs(scorer.patches([changed])[0] - scorer.patches(pictures[:1])[0]).sum(axis=2)
    assert difference.argmax() == 0 and difference[0, 0] > 0.1
    masks = TokenCut(scorer).masks(pictures)
    assert [mask.shape for mask in masks] == [(48, 48)] * 3


def test_the_cut_separates_what_differs_from_the_border() -> None:
    draw = np.random.default_rng(0)
    one, other = draw.normal(size=(2, 8))
    features = np.tile(one, (8, 8, 1)) + draw.normal(scale=0.2, size=(8, 8, 8))
    features[2:6, 3:7] += other - one
    expected = np.zeros((8, 8), dtype=bool)
    expected[2:6, 3:7] = True
    assert np.array_equal(subject(features), expected)
    assert not subject(np.tile(one, (8, 8, 1))).any()


def test_a_mask_has_the_size_of_its_picture(tmp_path: Path) -> None:
    _, _, source = saved(vit, tmp_path)
    draw = np.random.default_rng(0)
    wide = Image.fromarray(draw.integers(0, 255, (30, 70, 3), dtype=np.uint8))
    mask = TokenCut(DinoScorer(source, "cpu")).masks([wide])[0]
    assert mask.shape == (30, 70) and 0 < mask.mean() < 1
