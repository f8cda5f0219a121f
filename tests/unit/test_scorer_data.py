"""The scorers' data: variants differ in one visible attribute, triplets are what they claim."""

from collections import Counter
from dataclasses import replace
from itertools import islice
from random import Random

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from transformers import ViTImageProcessor

from models.miniature.build.data import (
    FAMILY,
    GROUP,
    SHARD,
    Drawn,
    family_scenes,
    shard_scenes,
    triplet_scenes,
)
from models.miniature.build.progress import BuildProgress
from models.miniature.build.triplets import changed, triplet_shares, triplets_of
from models.miniature.build.views import altered_views, restore_part, shrunk
from models.miniature.build.world import (
    ATTRIBUTES,
    EYED,
    FIGURES,
    NONE,
    THOR_CAT,
    VALUES,
    Character,
    Scene,
    altered,
    changeable,
    character,
    common_subject,
    draw,
    shown,
)
from models.miniature.build.world.pen import Pen

VISIBLE = 32  # of 255: a clear difference of a pixel
PIXELS = 100  # of 128 * 128 that differ clearly


def pixels(subject: Character) -> np.ndarray:
    return np.asarray(draw(subject, "room", Random(3))).astype(int)


def subjects(count: int) -> list[Character]:
    rng = Random("subjects")
    return [character(seed) for seed in range(count)] + [common_subject(rng) for _ in range(count)]


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_a_change_is_of_the_named_attribute_and_can_be_seen(attribute: str) -> None:
    rng = Random(attribute)
    wearers = [one for one in subjects(60) if attribute in changeable(one) and not one.common]
    for subject in wearers[:5]:
        other = altered(subject, attribute, rng)
        assert changed(Scene(subject, "sea"), Scene(other, "snow")) == attribute
        differ = {name for name in ATTRIBUTES if shown(subject)[name] != shown(other)[name]}
        assert differ - {f"{attribute}_colour"} == {attribute}
        difference = np.abs(pixels(subject) - pixels(other)).max(-1) > VISIBLE
        assert difference.sum() > PIXELS, (subject, other)


def test_only_what_is_visible_can_be_changed() -> None:
    bare = Character("robot", "red", "white", headgear_colour="gold", held_colour="steel")
    assert not {"headgear_colour", "neckwear_colour", "held_colour"} & set(changeable(bare))
    assert {"headgear", "held", "cape", "eyes"} <= set(changeable(bare))
    assert "eyes" not in changeable(Character("house", "red", "white"))
    assert "held" not in changeable(THOR_CAT)  # it has no colour for what it would hold


def test_gold_is_not_told_from_yellow() -> None:
    golden = replace(character(1), headgear="crown", headgear_colour="gold")
    rng = Random(0)
    colours = {altered(golden, "headgear_colour", rng).headgear_colour for _ in range(200)}
    assert "yellow" not in colours and "steel" in colours


def test_exactly_the_kinds_with_eyes_have_eyes() -> None:
    pen = Pen(Image.new("RGB", (64, 64)), (32, 32), 20)
    eyed = {kind for kind, figure in FIGURES.items() if figure(pen, (0,) * 3, (0,) * 3, "").eyes}
    assert eyed == set(EYED)


def test_every_visible_value_is_known() -> None:
    for subject in (*subjects(150), THOR_CAT):
        for name, value in shown(subject).items():
            assert value in VALUES[name]
    seen = shown(replace(THOR_CAT, kind="fish", headgear=None))
    assert seen["headgear"] == seen["headgear_colour"] == seen["held_colour"] == NONE
    assert seen["eyes"] == "green"
    assert shown(Character("cat", "red", "white", neckwear="scarf"))["neckwear_colour"] == "red"


def test_a_family_shows_each_individual_in_the_same_two_places() -> None:
    for number in range(20):
        family = list(islice(family_scenes(Random(number)), FAMILY))
        assert len({scene.place for scene in family}) == 2
        individuals = [scene.subject for scene in family[::2]]
        assert individuals == [scene.subject for scene in family[1::2]]
        assert len(set(individuals)) == FAMILY // 2
        for later, one in enumerate(individuals[1:], start=1):
            earlier = individuals[:later]
            fewest = min(
                sum(getattr(one, n) != getattr(other, n) for n in ATTRIBUTES) for other in earlier
            )
            assert fewest == 1


def test_triplets_test_every_attribute_often_enough() -> None:
    assert SHARD % GROUP == SHARD % FAMILY == 0
    scenes = [scene for shard in range(9) for scene in shard_scenes("triplets", shard)]
    negatives = Counter(triplet.attribute for triplet in triplets_of(scenes))
    assert set(negatives) == set(ATTRIBUTES)
    assert min(negatives.values()) >= 2 * 200  # both ways round


def test_a_triplet_is_one_character_twice_and_a_changed_one() -> None:
    scenes = list(islice(triplet_scenes(Random(5)), 3 * GROUP))
    for triplet in triplets_of(scenes):
        anchor, positive = scenes[triplet.anchor], scenes[triplet.positive]
        negative = scenes[triplet.negative]
        assert anchor.subject == positive.subject and anchor.place != positive.place
        assert changed(anchor, negative) == triplet.attribute
        assert negative.place in {anchor.place, positive.place}


def test_characters_of_the_test_are_in_no_training() -> None:
    tested = {scene.subject for scene in shard_scenes("triplets", 0)}
    for source in ("families", "characters"):
        trained = {scene.subject for shard in range(4) for scene in shard_scenes(source, shard)}
        assert not tested & trained


def test_features_that_name_every_attribute_are_always_right_and_blind_ones_are_not() -> None:
    scenes = list(islice(triplet_scenes(Random(6)), 10 * GROUP))

    def features(ignored: str = "") -> np.ndarray:
        rows = [
            [float(one == value) for name, one in shown(scene.subject).items() if name != ignored
             for value in VALUES[name]]
            for scene in scenes
        ]  # fmt: skip
        return np.array(rows) / np.linalg.norm(rows, axis=1, keepdims=True)

    assert set(triplet_shares(features(), scenes).values()) == {1.0}
    assert triplet_shares(features("eyes"), scenes)["eyes"] == 0.0


def test_two_changes_are_no_triplet() -> None:
    with pytest.raises(ValueError, match="differ in 2 attributes"):
        changed(Scene(THOR_CAT, "sea"), Scene(replace(THOR_CAT, kind="fish", cape=None), "sea"))


def test_views_keep_their_size_and_range_and_come_from_their_seed() -> None:
    pictures = torch.randint(256, (8, 3, 128, 128), dtype=torch.uint8)
    small = shrunk(pictures, 64)
    assert small.dtype == torch.uint8
    views, again = (altered_views(small, torch.Generator().manual_seed(0)) for _ in range(2))
    assert views.shape == (8, 3, 64, 64)
    assert views.min() >= -1 and views.max() <= 1
    assert torch.equal(views, again)


def test_pictures_are_shrunk_as_the_image_processor_does() -> None:
    picture = np.asarray(draw(THOR_CAT, "sea", Random(0)))
    processor = ViTImageProcessor(size={"height": 64, "width": 64}, do_normalize=False)
    expected = processor(Image.fromarray(picture), return_tensors="pt").pixel_values[0] * 255
    pictures = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
    assert (shrunk(pictures, 64)[0].float() - expected).abs().max() < 2


def test_a_share_of_the_pictures_passes_through_the_vae_once(tmp_path) -> None:
    (tmp_path / "drawn").mkdir()
    AutoencoderKL(norm_num_groups=2, block_out_channels=(4,)).save_pretrained(tmp_path / "vae")
    pictures = torch.randint(256, (20, 3, 16, 16), dtype=torch.uint8)
    scene = Scene(THOR_CAT, "sea")
    drawn = Drawn(pictures, (scene,) * 20)
    quiet = BuildProgress(quiet=True)
    parts = [restore_part(drawn, 0.25, tmp_path / "vae", tmp_path, "few", quiet) for _ in range(2)]
    changed_rows = (parts[0].pictures != pictures).flatten(1).any(1)
    assert changed_rows.sum() == 5
    assert torch.equal(parts[0].pictures, parts[1].pictures)
    assert len(list((tmp_path / "drawn").iterdir())) == 1
