"""A mark on all training pictures is found in them, and looked for in results."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from models.miniature.build.world import PLACES, Character, character, draw
from pipelines.dataset import lint
from pipelines.dataset.background import one_background
from pipelines.dataset.marks import find_mark, stamped

SUBJECT = character(3)
Stamp = Callable[[Image.Image], Image.Image]


def drawings(count: int = 8, subject: Character = SUBJECT, seed: int = 0) -> list[Image.Image]:
    """A subject in as many places, from one random state."""
    rng, places = Random(seed), list(PLACES)
    return [draw(subject, places[index % len(places)], rng) for index in range(count)]


def stripe(picture: Image.Image) -> Image.Image:
    marked = picture.copy()
    ImageDraw.Draw(marked).rectangle((0, 112, 128, 120), fill=(250, 30, 160))
    return marked


def plate(picture: Image.Image) -> Image.Image:
    marked = picture.copy()
    pen = ImageDraw.Draw(marked)
    pen.rectangle((96, 6, 122, 16), fill=(20, 20, 20))
    pen.text((98, 5), "2024", fill=(255, 200, 0))
    return marked


def logo(picture: Image.Image) -> Image.Image:
    marked = picture.copy()
    pen = ImageDraw.Draw(marked)
    pen.ellipse((8, 8, 28, 28), fill=(200, 20, 20))
    pen.ellipse((13, 13, 23, 23), fill=(255, 255, 255))
    return marked


def border(picture: Image.Image) -> Image.Image:
    marked = picture.copy()
    ImageDraw.Draw(marked).rectangle((0, 0, 127, 127), outline=(255, 255, 255), width=10)
    return marked


def softened(picture: Image.Image) -> Image.Image:
    """As soft and noisy as generated pictures are."""
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(1.0)), dtype=float)
    noisy = soft + np.random.default_rng(0).normal(0, 6, soft.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


MARKS = {
    "a stripe at the bottom": stripe,
    "a mark at the top right": plate,
    "a mark at the top left": logo,
    "a border or several marks": border,
}


@pytest.mark.parametrize("words", MARKS)
def test_a_mark_is_named_and_told_from_its_absence(words: str) -> None:
    stamp = MARKS[words]
    training = [stamp(picture) for picture in drawings()]
    mark = find_mark(training)
    assert mark is not None and mark.words == words
    results = drawings(4, seed=1)
    assert min(stamped(training, [softened(stamp(picture)) for picture in results])) > 0.6
    assert max(stamped(training, [softened(picture) for picture in results])) < 0.2


@pytest.mark.parametrize("seed", [0, 1, 4])  # plain and striped
def test_a_subject_in_the_middle_of_all_pictures_is_no_mark(seed: int) -> None:
    training = drawings(subject=character(seed), seed=seed)
    assert find_mark(training) is None
    assert stamped(training, training[:2]) == [0.0, 0.0]


def test_pictures_without_an_equal_pixel_have_no_mark() -> None:
    plain = [Image.new("RGB", (64, 64), (40 * shade, 0, 0)) for shade in range(5)]
    assert find_mark(plain) is None


def test_copies_of_few_pictures_have_no_mark() -> None:
    few = [stripe(picture) for picture in drawings(3)]
    assert find_mark(few * 3) is None
    assert stamped(few, few) == [0.0] * 3


def test_one_background_is_told_from_several() -> None:
    rng = Random(0)
    beach = [draw(SUBJECT, "beach", rng) for _ in range(6)]
    assert one_background(beach)
    assert not one_background([*beach[:5], draw(SUBJECT, "space", rng)])
    assert not one_background(beach[:3])  # too few to tell
    framed = [border(picture) for picture in drawings()]
    mark = find_mark(framed)
    assert mark is not None and one_background(framed)
    assert not one_background(framed, mark.mask)


def saved(folder: Path, pictures: list[Image.Image]) -> Path:
    folder.mkdir()
    for index, picture in enumerate(pictures):
        picture.save(folder / f"{index}.png")
    return folder


def test_lint_names_the_mark_and_the_background(tmp_path: Path) -> None:
    clean = [str(one) for one in lint(saved(tmp_path / "clean", drawings()))]
    assert not any("in common" in text or "one background" in text for text in clean)
    marked = saved(tmp_path / "marked", [stripe(picture) for picture in drawings()])
    (found,) = [one for one in lint(marked) if "in common" in one.text]
    assert (found.severity, found.file) == ("warning", marked)
    assert "all 8 pictures have a stripe at the bottom in common" in found.text
    assert "0.png, 1.png, 2.png and 5 others" in found.text and "crop" in found.advice
    rng = Random(0)
    same = saved(tmp_path / "same", [draw(SUBJECT, "beach", rng) for _ in range(6)])
    (found,) = [one for one in lint(same) if "one background" in one.text]
    assert "other places" in found.advice
