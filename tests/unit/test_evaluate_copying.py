"""A training picture given back is told from the same subject somewhere else."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from pipelines.evaluate.copying import copying

INK = (200, 60, 40)


def scene(seed: int, place: tuple[int, int, int]) -> Image.Image:
    """A face with ears at a pose, before a background of its own."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (128, 128), place)
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, r = [*rng.integers(0, 128, 2).tolist(), int(rng.integers(6, 22))]
        pen.rectangle((x - r, y - r, x + r, y + r), fill=tuple(rng.integers(0, 255, 3).tolist()))
    cx, cy = rng.integers(50, 78, 2).tolist()
    pen.ellipse((cx - 30, cy - 26, cx + 30, cy + 26), fill=INK)
    pen.polygon([(cx - 28, cy - 14), (cx - 24, cy - 46), (cx - 6, cy - 24)], fill=INK)
    pen.ellipse((cx - 14, cy - 8, cx - 6, cy), fill=(255, 255, 255))
    return image


TRAINING = [scene(0, (250, 220, 150)), scene(1, (120, 180, 250))]


@pytest.mark.parametrize(
    "changed",
    [
        TRAINING[0],
        ImageOps.mirror(TRAINING[0]),
        ImageEnhance.Brightness(TRAINING[0]).enhance(0.85),
        TRAINING[0].filter(ImageFilter.GaussianBlur(0.8)),
        TRAINING[0].transform((128, 128), Image.Transform.AFFINE, (1, 0, 4, 0, 1, -3)),
        TRAINING[0].resize((256, 256)),
    ],
    ids=["same", "mirrored", "darker", "softer", "shifted", "larger"],
)
def test_a_changed_copy_is_found_and_named(changed: Image.Image) -> None:
    likeness = copying([changed], TRAINING)
    assert likeness.shape == (1, 2)
    assert likeness[0].argmax() == 0
    assert likeness[0, 0] > 0.9
    assert likeness[0, 1] < 0.7


def test_the_same_subject_elsewhere_is_no_copy() -> None:
    others = [scene(seed, (60 + 20 * seed, 120, 90)) for seed in range(2, 6)]
    assert copying(others, TRAINING).max() < 0.8


def test_an_even_picture_is_like_nothing() -> None:
    even = Image.new("RGB", (128, 128), (90, 90, 90))
    assert copying([even], TRAINING).max() == pytest.approx(0.0, abs=1e-3)
