"""Pictures of several subjects are named before an adapter is trained on them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.evaluate.consistency import mutual_similarity, odd_ones, subject_findings
from tests.judged import policy

RED, GREEN, BLUE = (250, 5, 5), (5, 250, 5), (5, 5, 250)
POLICY = policy(gates={"consistency": {"min": 0.6}})


class Colours:
    """Features are the mean colour, of unit length."""

    def dino(self, images: Sequence[Image.Image]) -> np.ndarray:
        rows = np.stack([np.asarray(image, dtype=float).mean(axis=(0, 1)) for image in images])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    clip_images = dino

    def clip_texts(self, texts: Sequence[str]) -> np.ndarray:
        raise NotImplementedError


def saved(folder: Path, *colours: tuple[int, int, int]) -> Path:
    for index, (red, green, blue) in enumerate(colours):
        Image.new("RGB", (48, 32), (red, green, blue + index)).save(folder / f"{index}.png")
    return folder


def test_the_similarity_to_the_others_leaves_a_picture_itself_out() -> None:
    rows = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert mutual_similarity(rows) == pytest.approx([0.5, 0.5, 0.0])
    assert odd_ones([0.9, 0.8, 0.2]) == [2]
    assert odd_ones([-0.1, 0.0, 0.1]) == []


def test_one_subject_gets_no_warning(tmp_path: Path) -> None:
    found = subject_findings(saved(tmp_path, *[RED] * 4), POLICY, Colours())
    assert [one.severity for one in found] == ["info"]
    assert "mean similarity of the pictures to each other 1.00" in found[0].text


def test_the_odd_one_is_named(tmp_path: Path) -> None:
    found = subject_findings(saved(tmp_path, *[RED] * 7, GREEN), POLICY, Colours())
    (odd,) = [one for one in found if one.severity == "warning"]
    assert odd.file.name == "7.png" and "shows another subject" in odd.text


def test_different_subjects_are_told_as_such(tmp_path: Path) -> None:
    folder = saved(tmp_path, RED, GREEN, BLUE, RED)
    (found,) = subject_findings(folder, POLICY, Colours())
    assert (found.severity, found.file) == ("warning", folder)
    assert "these pictures show different subjects" in found.text
    assert "the policy requires 0.60 (least similar first: " in found.text
