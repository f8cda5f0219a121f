"""The subject is separated from its background, in references and in generated pictures alike."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atelier.errors import PolicyError
from pipelines.evaluate.foreground import GREY, background_only, subject_only
from pipelines.evaluate.scorers.files import located
from pipelines.evaluate.scorers.saliency import OnnxSaliency
from tests.scorer_stand_ins import RED, tiny_saliency

GREEN = (0, 200, 0)
BOX = (20, 10, 60, 70)  # left, top, right, bottom


def scene() -> Image.Image:
    picture = Image.new("RGB", (120, 80), GREEN)
    picture.paste(RED, BOX)
    return picture


def mask_of(box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((80, 120), dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def colours(image: Image.Image) -> set[tuple[int, int, int]]:
    return {colour for _, colour in image.getcolors()}  # type: ignore[union-attr, misc]


@pytest.mark.parametrize("logits", [False, True])
def test_the_mask_is_where_the_network_sees_the_subject(tmp_path: Path, logits: bool) -> None:
    source = located("saliency", tiny_saliency(tmp_path / "saliency", logits=logits))
    mask, none = OnnxSaliency(source, "cpu").masks([scene(), Image.new("RGB", (50, 40), GREEN)])
    assert mask.shape == (80, 120) and none.shape == (40, 50)
    agreement = (mask & mask_of(BOX)).sum() / (mask | mask_of(BOX)).sum()
    assert agreement > 0.95
    assert not none.any()


def test_settings_that_do_not_fit_the_network_are_named(tmp_path: Path) -> None:
    folder = Path(tiny_saliency(tmp_path / "saliency", logits=True))
    digest = located("saliency", str(folder)).digest
    (folder / "saliency.json").unlink()
    with pytest.raises(PolicyError, match=r"values outside 0 to 1\); set `logits` to true"):
        OnnxSaliency(located("saliency", str(folder)), "cpu").masks([scene()])
    (folder / "saliency.json").write_text(json.dumps({"sigmoid": True}))
    with pytest.raises(PolicyError, match=r"scorers\.saliency: .*saliency\.json: sigmoid"):
        OnnxSaliency(located("saliency", str(folder)), "cpu")
    assert digest != located("saliency", str(folder)).digest  # the settings belong to it


def test_the_subject_is_cropped_to_a_square_without_its_background() -> None:
    crop = subject_only(scene(), mask_of(BOX))
    assert crop.width == crop.height == 66  # the box's longest side and a margin
    assert colours(crop) == {RED, GREY}
    share = np.all(np.asarray(crop) == RED, axis=2).mean()
    assert share == pytest.approx(40 * 60 / 66**2)


def test_the_crop_does_not_depend_on_the_place_or_the_background() -> None:
    moved = Image.new("RGB", (120, 80), (0, 0, 255))
    moved.paste(RED, (80, 20, 120, 80))
    here, there = (
        subject_only(scene(), mask_of(BOX)),
        subject_only(moved, mask_of((80, 20, 120, 80))),
    )
    assert np.array_equal(np.asarray(here), np.asarray(there))


def test_the_background_is_the_picture_without_the_subject_and_its_edge() -> None:
    behind = background_only(scene(), mask_of(BOX))
    assert behind is not None
    assert colours(behind) == {GREEN, GREY}
    assert behind.getpixel((18, 40)) == GREY  # the edge
    assert behind.getpixel((5, 40)) == GREEN


def test_pictures_without_a_subject_or_a_background() -> None:
    nothing, everything = np.zeros((80, 120), dtype=bool), np.ones((80, 120), dtype=bool)
    assert subject_only(scene(), nothing) == scene()
    assert background_only(scene(), everything) is None
    assert background_only(scene(), nothing) == scene()


def test_large_pictures_are_reduced_first() -> None:
    large = scene().resize((1200, 800))
    mask = np.kron(mask_of(BOX), np.ones((10, 10), dtype=bool))
    crop = subject_only(large, mask)
    assert crop.width < 448
    behind = background_only(large, mask)
    assert behind is not None and max(behind.size) == 448
