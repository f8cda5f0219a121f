"""The drawn world: the same numbers draw the same picture, and captions tell the truth."""

from itertools import islice
from random import Random

import numpy as np
import pytest

from models.miniature.build.data import character_scenes, common_scenes, held_out, held_out_scenes
from models.miniature.build.world import (
    COLOURS,
    FIGURES,
    PHRASES,
    PLACES,
    SIZE,
    THOR_CAT,
    THUMBS_UP,
    Character,
    Scene,
    caption,
    character,
    common_scene,
    draw,
    plain_caption,
)


def pixels(subject: Character, place: str, seed: int = 0) -> np.ndarray:
    return np.asarray(draw(subject, place, Random(seed))).astype(int)


def test_the_same_seed_draws_the_same_picture():
    assert (pixels(THOR_CAT, "beach", 3) == pixels(THOR_CAT, "beach", 3)).all()
    assert (pixels(THOR_CAT, "beach", 3) != pixels(THOR_CAT, "beach", 4)).any()


@pytest.mark.parametrize("kind", FIGURES)
def test_a_figure_shows_its_colour(kind):
    picture = pixels(Character(kind, "purple", "white"), "desert")
    near = np.abs(picture - np.array(COLOURS["purple"])).max(-1) < 12
    assert near.mean() > 0.08


def test_places_differ_from_one_another():
    skies = {place: pixels(Character("star", "red", "white"), place) for place in PLACES}
    for place, picture in skies.items():
        for other in set(PLACES) - {place}:
            assert np.abs(picture - skies[other]).mean() > 8, (place, other)


def test_a_size_can_be_chosen():
    assert draw(THOR_CAT, "snow", Random(0), size=64).size == (64, 64)
    assert draw(THOR_CAT, "snow", Random(0)).size == (SIZE, SIZE)


def test_a_plain_caption_tells_kind_colour_and_place():
    rng = Random(1)
    for _ in range(50):
        scene = common_scene(rng)
        kind, colour, place = scene.combination
        words = plain_caption(scene)
        assert kind in words and colour in words and words.endswith(PHRASES[place])


def test_articles_fit():
    assert plain_caption(Scene(Character("cat", "orange", "white"), "sea")) == (
        "an orange cat under the sea"
    )


def test_captions_never_name_what_is_not_there():
    rng = Random(2)
    for _ in range(200):
        scene = common_scene(rng)
        subject, words = scene.subject, caption(scene, rng).split()
        named = set(words) & set(COLOURS)
        assert named <= {subject.colour, subject.accent}
        assert not set(words) & (set(FIGURES) - {subject.kind})


def test_the_base_never_sees_characters():
    common = list(islice(common_scenes(Random(3)), 300))
    assert all(scene.subject.common for scene in common)
    assert not THOR_CAT.common
    assert not THUMBS_UP.common
    individuals = list(islice(character_scenes(Random(4)), 40))
    assert not any(scene.subject == THOR_CAT for scene in individuals)


def test_characters_come_from_their_seed():
    assert character(7) == character(7)
    assert len({character(seed) for seed in range(50)}) == 50
    assert character(7, kind="robot").kind == "robot"


def test_held_out_combinations_are_held_out():
    trained = {scene.combination for scene in islice(common_scenes(Random(5)), 2000)}
    kept = {scene.combination for scene in islice(held_out_scenes(Random(6)), 100)}
    assert kept and not trained & kept
    share = np.mean([held_out(common_scene(rng)) for rng in [Random(7)] for _ in range(2000)])
    assert 0.05 < share < 0.16
