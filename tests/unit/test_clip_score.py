"""The CLIP score: its scale, its interval, and the same score from kept pictures."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.evaluate.clip_score import Captioned, clip_score, scaled, summed_up


def unit(*angles: float) -> np.ndarray:
    """Rows of unit length in the plane, by their angles in degrees."""
    turned = np.radians(angles)
    return np.stack([np.cos(turned), np.sin(turned)], axis=1)


class Plane:
    """A CLIP whose pictures have the angle of their red level, and whose texts are at 0 degrees."""

    def clip_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        return unit(*(float(np.asarray(image)[0, 0, 0]) for image in images))

    def clip_texts(self, texts: Sequence[str]) -> np.ndarray:
        return unit(*(0.0 for _ in texts))


def at(angle: int, text: str) -> Captioned:
    return Captioned(Image.new("RGB", (4, 4), (angle, 0, 0)), text)


def test_the_scale_is_a_hundred_times_the_cosine_and_never_negative() -> None:
    found = scaled(unit(0, 60, 90, 120), unit(0, 0, 0, 0))
    assert found == pytest.approx([100, 50, 0, 0], abs=1e-9)


@given(st.floats(0, 90))
def test_hessels_score_is_this_one_divided_by_forty(angle: float) -> None:
    (found,) = scaled(unit(angle), unit(0))
    assert found / 40 == pytest.approx(2.5 * max(np.cos(np.radians(angle)), 0), abs=1e-9)


def test_prompts_count_equally_however_many_pictures_they_have() -> None:
    found = clip_score([at(0, "a"), at(60, "b"), at(60, "b"), at(60, "b")], Plane())
    assert [each.text for each in found.prompts] == ["a", "b"]
    assert [len(each.scores) for each in found.prompts] == [1, 3]
    assert found.mean == pytest.approx(75)


def test_the_interval_is_over_the_pictures_of_these_prompts() -> None:
    """Prompts of very different difficulty do not widen it."""
    found = summed_up({"easy": [80.0, 80.2], "hard": [20.0, 20.2]})
    assert found.over == "pictures" and found.ci is not None
    assert found.ci[0] < found.mean < found.ci[1] and found.ci[1] - found.ci[0] < 1


def test_one_picture_of_each_prompt_makes_the_prompts_the_sample() -> None:
    found = summed_up({"easy": [80.0], "hard": [20.0], "other": [50.0]})
    assert found.over == "prompts" and found.ci is not None
    assert found.ci[1] - found.ci[0] > 60


def test_a_single_picture_has_no_interval() -> None:
    assert summed_up({"a": [30.0]}).ci is None


def test_the_interval_covers_the_mean_of_the_prompts() -> None:
    rng = np.random.default_rng(2)
    truth, hits = rng.uniform(20, 40, 5), 0
    for _ in range(500):
        drawn = {str(i): list(rng.normal(mean, 3, 4)) for i, mean in enumerate(truth)}
        ci = summed_up(drawn).ci
        assert ci is not None
        hits += ci[0] <= truth.mean() <= ci[1]
    assert 0.92 <= hits / 500 <= 0.98
