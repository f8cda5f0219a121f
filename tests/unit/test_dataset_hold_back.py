"""The program chooses by content which pictures training does not see."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atelier.errors import DatasetError
from pipelines.dataset import hold_back, open_folder
from pipelines.dataset.hold_back import default_count


def drawn(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        noise = np.random.default_rng(index).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{index:02}.png")
    return folder


@pytest.mark.parametrize(
    ("pictures", "held"), [(1, 0), (11, 0), (12, 3), (18, 3), (24, 4), (36, 6), (200, 6)]
)
def test_a_handful_of_pictures_spares_none(pictures: int, held: int) -> None:
    assert default_count(pictures) == held


def test_neither_names_nor_order_have_an_effect(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "a", 12)
    (tmp_path / "b").mkdir()
    for index, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, tmp_path / "b" / f"{99 - index}.png")
    first, second = (hold_back(open_folder(tmp_path / name), None) for name in "ab")
    assert len(first.held_back_digests) == 3
    assert first.held_back_digests == second.held_back_digests
    names = [picture.path.name for picture in first.training.pictures]
    assert names == sorted(names) and len(names) == 9


def test_a_copy_is_held_back_with_its_original(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "a", 6)
    held = hold_back(open_folder(folder), 1).held_back[0].path
    shutil.copy(held, folder / "copy.png")
    split = hold_back(open_folder(folder), 1)
    assert {picture.path.name for picture in split.held_back} == {held.name, "copy.png"}
    assert len(split.held_back_digests) == 1 and len(split.training.pictures) == 5


def test_training_keeps_three_pictures(tmp_path: Path) -> None:
    folder = open_folder(drawn(tmp_path / "a", 5))
    assert len(hold_back(folder, 2).training.pictures) == 3
    with pytest.raises(DatasetError, match="leave fewer than 3 for training; add pictures, or set"):
        hold_back(folder, 3)
    few = open_folder(drawn(tmp_path / "b", 2))
    assert len(hold_back(few, 0).training.pictures) == 2
