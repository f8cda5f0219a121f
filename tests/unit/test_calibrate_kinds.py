"""The calibration's adapters: each kind has a recipe that is valid, and pictures of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atelier.data.policy import Policy
from models.miniature.build.world import PHRASES
from models.miniature.calibrate.__main__ import Calibration
from models.miniature.calibrate.kinds import KINDS
from models.miniature.calibrate.labels import BAD, GOOD, Rates, label
from models.miniature.calibrate.subjects import SHOWN, subjects

PERFECT = Rates(subject=1.0, kind=1.0, place=1.0, class_kept=1.0, unrelated_kept=1.0)


@pytest.fixture
def calibration(tmp_path: Path) -> Calibration:
    nothing: Any = None  # recipes and pictures need no engine
    return Calibration(tmp_path, Policy.load(), nothing)


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_has_a_valid_recipe_for_every_subject(calibration: Calibration, name: str) -> None:
    for subject in subjects(4):
        recipe = calibration.recipe(subject, KINDS[name])
        assert recipe.class_ == subject.kind
        assert len(list((recipe.folder / "images").glob("*.png"))) == 8
        if name == "attention alone":
            assert recipe.stages[0].lora.targets == ("attn",)
        if name == "no prior":
            assert recipe.stages[0].prior is None


def test_pictures_of_mixed_subjects_differ_and_one_background_is_one_place(
    calibration: Calibration,
) -> None:
    (subject,) = subjects(1)
    folders = {}
    for name in ("good", "mixed subjects", "one background"):
        folders[name] = calibration.recipe(subject, KINDS[name]).folder / "images"
    lines = (folders["one background"] / "metadata.jsonl").read_text()
    assert lines.count(PHRASES[SHOWN[0]]) == 8
    centres = {
        name: np.stack([np.asarray(Image.open(folder / f"{n}.png"))[64, 64] for n in range(8)])
        for name, folder in folders.items()
    }
    assert len(np.unique(centres["mixed subjects"], axis=0)) > len(
        np.unique(centres["good"], axis=0)
    )


def test_policies_ask_for_other_places_than_the_training_pictures() -> None:
    prompts = Policy.load().prompts.subject
    assert not any(PHRASES[place] in prompt for place in SHOWN for prompt in prompts)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "good"),
        ({"class_kept": BAD["class_kept"] - 0.01}, "bad"),
        ({"subject": (GOOD["subject"] + BAD["subject"]) / 2}, "unclear"),
    ],
)
def test_a_label_follows_from_the_rates(changes: dict[str, float], expected: str) -> None:
    (subject,) = subjects(1)
    found = label(Rates(**{**PERFECT.__dict__, **changes}), subject, KINDS["no prior"])
    assert (found.label, found.group) == (expected, subject.name)
    assert bool(found.causes) == (expected != "good")
