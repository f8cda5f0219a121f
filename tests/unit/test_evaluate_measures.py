"""The numbers of single pictures, with features that can be worked out in the head."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from atelier.files import sha256_bytes
from pipelines.evaluate.measures import (
    LookAlikes,
    Pair,
    ReferenceSet,
    diversity,
    effect,
    measure,
)
from pipelines.evaluate.prompt_set import PromptCase
from pipelines.evaluate.sharpness import sharpness

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
WORDS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}


def plain(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (16, 16), colour)


class Colours:
    """Features are the mean colour, of unit length; a text's are the colour it names."""

    def dino(self, images: Sequence[Image.Image]) -> np.ndarray:
        rows = np.stack([np.asarray(image, dtype=float).mean(axis=(0, 1)) for image in images])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    clip_images = dino

    def clip_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([WORDS[text.split()[-1]] for text in texts], dtype=float)


def shot(role: str, number: int, seed: int, text: str = "a red") -> PromptCase:
    return PromptCase(role, number, f"sks {text}", text, seed)  # type: ignore[arg-type]


def against(*colours: tuple[int, int, int]) -> ReferenceSet:
    pictures = [plain(colour) for colour in colours]
    names = [f"{index}.png" for index in range(len(colours))]
    digests = [sha256_bytes(name.encode()) for name in names]
    digest = "sha256:" + "a" * 64
    return ReferenceSet(digest, pictures, names, pictures, names, digests, held_back=False)


def test_a_subject_is_compared_with_references_text_and_base() -> None:
    pairs = [Pair(shot("subject", 0, 0), plain(RED), plain(GREEN))]
    found = measure(pairs, against(RED, BLUE), Colours()).pictures[0]
    assert found.values["subject"] == pytest.approx(0.5)  # like one of the two references
    assert found.values["text"] == pytest.approx(1.0)
    assert found.base_values["subject"] == pytest.approx(0.0)
    assert found.base_values["text"] == pytest.approx(0.0)
    assert "diversity" not in found.values  # one seed


def test_references_tell_how_like_they_are_among_themselves() -> None:
    pairs = [Pair(shot("subject", 0, 0), plain(RED), plain(GREEN))]
    assert measure(pairs, against(RED, RED, BLUE), Colours()).references.likeness[
        "subject"
    ] == pytest.approx(1 / 3)
    assert measure(pairs, against(RED), Colours()).references.likeness == {}


def test_a_picture_is_retrieved_by_its_subject_or_by_a_look_alike() -> None:
    """Green is the class; the base draws it for the trigger too."""
    pairs = [
        Pair(shot("subject", 0, 0), plain(RED), plain(GREEN)),
        Pair(shot("subject", 0, 1), plain(GREEN), plain(GREEN)),
        Pair(shot("class", 0, 0), plain(GREEN), plain(GREEN)),
        Pair(shot("class", 0, 1), plain(RED), plain(GREEN)),
        Pair(shot("class", 0, 2), plain(BLUE), plain(GREEN)),
    ]
    found = measure(pairs, against(RED), Colours()).pictures
    assert [one.values.get("retrieval") for one in found[:2]] == [1.0, 0.0]
    assert [one.base_values.get("retrieval") for one in found[:2]] == [0.0, 0.0]
    assert [one.values.get("leak") for one in found[2:]] == [0.0, 1.0, 0.0]
    assert [one.values.get("class_drift") for one in found[2:]] == [0.0, 1.0, 1.0]


def test_a_picture_is_taken_for_a_look_alike_that_it_resembles_more_than_a_reference() -> None:
    pairs = [
        Pair(shot("subject", 0, 0), plain((255, 60, 0)), plain(BLUE)),
        Pair(shot("subject", 0, 1), plain((255, 160, 0)), plain(BLUE)),
        Pair(shot("class", 0, 0), plain((255, 160, 0)), plain(BLUE)),
    ]
    orange = LookAlikes("orange", [plain((255, 170, 0))], declared=True)
    measures = measure(pairs, replace(against(RED), look_alikes=[orange]), Colours())
    assert measures.references.look_alikes == ("orange",)
    assert [one.values.get("retrieval") for one in measures.pictures[:2]] == [1.0, 0.0]
    assert [one.look_alike for one in measures.pictures[:2]] == [None, "orange"]
    # A look-alike is no excuse: a picture of the class that moved towards the subject still leaks.
    assert measures.pictures[2].values["leak"] == 1.0


def test_another_adapter_of_the_same_subject_is_no_look_alike() -> None:
    pairs = [Pair(shot("subject", 0, 0), plain(RED), plain(BLUE))]
    same = LookAlikes("twin@1", [plain((255, 20, 0))], declared=False)
    other = LookAlikes("other@2", [plain((255, 200, 0))], declared=False)
    references = replace(against(RED, (255, 30, 0)), look_alikes=[same, other])
    assert measure(pairs, references, Colours()).references.look_alikes == ("other@2",)
    chosen = replace(references, look_alikes=[replace(same, declared=True)])
    assert measure(pairs, chosen, Colours()).references.look_alikes == ("twin@1",)


def test_a_subject_is_looked_for_beside_the_companions() -> None:
    alone = Pair(shot("subject", 0, 0), plain(RED), plain(GREEN))
    lost = replace(alone, case=shot("subject", 0, 1), together=plain(BLUE))
    kept = replace(alone, case=shot("subject", 0, 2), together=plain(RED))
    found = measure([alone, lost, kept], against(RED), Colours()).pictures
    assert [one.values.get("together") for one in found] == [None, 0.0, 1.0]
    assert all(one.values["subject"] == 1.0 for one in found)


def test_references_are_compared_with_each_other() -> None:
    pairs = [Pair(shot("subject", 0, 0), plain(RED), plain(GREEN))]
    three = measure(pairs, against(RED, RED, BLUE), Colours()).references.pictures
    assert [one.values["consistency"] for one in three] == [0.5, 0.5, 0.0]
    assert measure(pairs, against(RED), Colours()).references.pictures[0].values == {}


def test_a_smeared_picture_is_less_sharp_than_the_bases_and_a_noisy_one_sharper() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    drawing = Image.fromarray(pixels).resize((128, 128))
    smeared = drawing.filter(ImageFilter.GaussianBlur(2))
    noisy = Image.fromarray(pixels).resize((128, 128), Image.Resampling.NEAREST)
    values = sharpness([smeared, drawing, noisy], [drawing])
    assert values[0] < 0.5 and values[1] == pytest.approx(1) and values[2] > 1.5


def test_drift_is_the_distance_of_on_and_off_on_unrelated_prompts_only() -> None:
    pairs = [
        Pair(shot("subject", 0, 0), plain(RED), plain(GREEN)),
        Pair(shot("unrelated", 0, 0), plain(BLUE), plain(BLUE)),
        Pair(shot("unrelated", 1, 0), plain(RED), plain(BLUE)),
    ]
    found = measure(pairs, against(RED), Colours()).pictures
    assert [one.values.get("drift") for one in found] == [None, 0.0, 1.0]
    assert all("subject" not in one.values for one in found if one.role == "unrelated")


def test_diversity_compares_seeds_of_one_prompt_only() -> None:
    features = np.eye(3)[[0, 0, 1, 2]]
    assert diversity(features, [0, 0, 1, 1]) == {0: 0.0, 1: 0.0, 2: 1.0, 3: 1.0}
    assert diversity(features, [0, 1, 2, 3]) == {}


def test_effect_is_exactly_zero_where_nothing_changed() -> None:
    assert effect(Pair(shot("subject", 0, 0), plain(RED), plain(RED))) == 0.0
    assert effect(Pair(shot("subject", 0, 0), plain(RED), plain(GREEN))) == pytest.approx(2 / 3)


def striped(colour: tuple[int, int, int]) -> Image.Image:
    picture = plain(colour).resize((128, 128))
    picture.paste((250, 30, 160), (0, 100, 128, 116))
    return picture


def test_the_mark_of_the_training_pictures_is_looked_for_in_results() -> None:
    shades = [(20, 90, 20), (90, 20, 20), (20, 20, 90), (90, 90, 90)]
    training = [striped(shade) for shade in shades]
    names = [f"{index}.png" for index in range(4)]
    digests = [sha256_bytes(name.encode()) for name in names]
    digest = "sha256:" + "a" * 64
    marked = ReferenceSet(digest, training, names, training, names, digests, held_back=False)
    base = plain((60, 10, 60)).resize((128, 128))
    pairs = [
        Pair(shot("subject", 0, 0), striped((60, 10, 60)), base),
        Pair(shot("subject", 0, 1), base, base),
    ]
    stamps = [one.values["stamp"] for one in measure(pairs, marked, Colours()).pictures]
    assert stamps == [pytest.approx(1.0), pytest.approx(0.0)]
