"""The image encoder and the oracle: losses that want the right thing, weights that load."""

import json
from dataclasses import replace
from itertools import islice
from random import Random

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModel

from models.miniature.build.data import FAMILY, family_scenes
from models.miniature.build.encoder import (
    COSTS,
    attribute_loss,
    encoded,
    individual_loss,
    new_encoder,
    save_encoder,
    similarity_loss,
)
from models.miniature.build.files import StateError
from models.miniature.build.oracle import (
    ASPECTS,
    LABELS,
    SIDE,
    Oracle,
    classify,
    labels,
    load_oracle,
    save_oracle,
)
from models.miniature.build.world import ATTRIBUTES, THOR_CAT, VALUES, Scene, character


def perfect(values: torch.Tensor) -> torch.Tensor:
    """Features whose cosine decreases by the cost of each attribute that differs."""
    columns = [
        cost**0.5 * F.one_hot(values[:, i], len(names)).float()
        for i, (names, cost) in enumerate(zip(VALUES.values(), COSTS.values(), strict=True))
    ]
    return F.normalize(torch.cat(columns, 1), dim=-1)


def families(count: int) -> list[Scene]:
    return list(islice(family_scenes(Random(1)), count * FAMILY))


def test_features_that_show_differences_have_the_lower_losses() -> None:
    values = encoded(families(6))
    good, blind = perfect(values), perfect(values.clone().index_fill_(1, torch.tensor([0, 5]), 0))
    assert individual_loss(good) < 0.8 * individual_loss(blind)
    assert similarity_loss(good, values) < 0.5 * similarity_loss(blind, values)


def test_the_attribute_loss_is_zero_for_the_right_values_only() -> None:
    values = encoded(families(2))
    sure = torch.cat(
        [50.0 * F.one_hot(values[:, i], len(v)) for i, v in enumerate(VALUES.values())], 1
    )
    assert attribute_loss(sure, values) < 1e-6
    assert attribute_loss(sure.roll(FAMILY, 0), values) > 10


def test_the_encoder_loads_as_any_does_with_pooled_features(tmp_path) -> None:
    torch.manual_seed(0)
    model = new_encoder().eval()
    save_encoder(model, tmp_path / "dino")
    picture = torch.randint(256, (3, 128, 128), dtype=torch.uint8)
    pixels = AutoImageProcessor.from_pretrained(tmp_path / "dino")(picture, return_tensors="pt")
    output = AutoModel.from_pretrained(tmp_path / "dino")(**pixels)
    assert output.last_hidden_state.ndim == 4
    assert output.pooler_output.dtype == torch.float32
    with torch.no_grad():
        assert torch.allclose(output.pooler_output, model(**pixels).pooler_output, atol=1e-5)
    with safe_open(tmp_path / "dino" / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118


def test_labels_are_the_visible_values() -> None:
    bare = replace(THOR_CAT, headgear=None)
    truth = labels([Scene(THOR_CAT, "sea"), Scene(bare, "snow")])
    names = {name: [LABELS[name][i] for i in rows.tolist()] for name, rows in truth.items()}
    assert list(names) == [*ATTRIBUTES, "place"]
    assert names["kind"] == ["cat", "cat"] and names["place"] == ["sea", "snow"]
    assert names["headgear"] == ["winged helmet", "none"]
    assert names["headgear_colour"] == ["gold", "none"]
    assert set(ASPECTS) == {"kind", "colour", "place"}


def test_the_oracle_that_is_loaded_says_what_was_saved(tmp_path) -> None:
    torch.manual_seed(0)
    oracle = Oracle().eval()
    save_oracle(oracle, tmp_path / "oracle")
    loaded = load_oracle(tmp_path / "oracle")
    logits, again = (one(torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
                     for one in (oracle, loaded))  # fmt: skip
    assert set(logits) == set(LABELS)
    for name, values in LABELS.items():
        assert logits[name].shape == (2, len(values))
        assert torch.allclose(logits[name], again[name], atol=5e-3)
    pictures = torch.randint(256, (3, 3, 128, 128), dtype=torch.uint8)
    predicted = classify(loaded, pictures, torch.device("cpu"))
    assert all(len(predicted[name]) == 3 and set(predicted[name]) <= set(LABELS[name])
               for name in LABELS)  # fmt: skip


def test_a_missing_oracle_and_one_of_another_world_are_refused(tmp_path) -> None:
    with pytest.raises(StateError, match="the oracle is missing; run the stage oracle"):
        load_oracle(tmp_path)
    weights = {name: weight.half() for name, weight in Oracle().state_dict().items()}
    other = json.dumps({"kind": ["dragon"]})
    save_file(weights, tmp_path / "oracle.safetensors", {"labels": other})
    with pytest.raises(StateError, match="not those of the world"):
        load_oracle(tmp_path)


def test_costs_make_a_cat_drawn_as_a_rabbit_another_individual() -> None:
    rabbit = replace(THOR_CAT, kind="rabbit")
    bare = replace(THOR_CAT, cape=None)
    values = encoded([Scene(one, "sea") for one in (THOR_CAT, rabbit, bare, character(3))])
    cosines = perfect(values) @ perfect(values)[0]
    assert cosines[1] < cosines[2] < cosines[0]
    assert 1 - COSTS["kind"] < 0.6
