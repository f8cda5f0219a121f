"""V2 tensors to requests and results to INFO, without a server."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atelier.contract.info import UsedAdapter
from services.engine import AdapterUse, ImageRequest, ImageResult, RequestError
from services.triton.tensors import info, parse


def text(value: str | bytes) -> np.ndarray:
    return np.array([value.encode() if isinstance(value, str) else value], dtype=np.object_)


def test_only_the_prompt_is_needed() -> None:
    assert parse({"PROMPT": text("a cat")}) == ImageRequest("a cat")


def test_every_input_arrives_in_its_field() -> None:
    request = parse(
        {
            "PROMPT": text("ein Häschen"),
            "NEGATIVE_PROMPT": text(""),
            "ADAPTERS": text('[{"name": "a", "version": 2, "weight": 0.5}, {"name": "b"}]'),
            "SCHEDULER": text("ddim"),
            "SEED": np.array([7], np.int64),
            "STEPS": np.array([3], np.int32),
            "WIDTH": np.array([64], np.int32),
            "HEIGHT": np.array([72], np.int32),
            "IMAGES": np.array([2], np.int32),
            "GUIDANCE_SCALE": np.array([1.5], np.float32),
        },
        timeout_us=2_500_000,
    )
    assert request == ImageRequest(
        prompt="ein Häschen",
        negative_prompt="",  # given and empty is not the same as absent
        adapters=(AdapterUse("a", 2, 0.5), AdapterUse("b", None, 1.0)),
        scheduler="ddim",
        seed=7,
        steps=3,
        width=64,
        height=72,
        images=2,
        guidance_scale=1.5,
        deadline=2.5,
    )


@given(st.integers(0, 2**64 - 1))
def test_any_seed_of_64_bits_survives_the_signed_tensor(seed: int) -> None:
    tensor = np.array([seed], np.uint64).view(np.int64)
    assert parse({"PROMPT": text("x"), "SEED": tensor}).seed == seed


def test_a_negative_seed_means_what_torch_makes_of_it() -> None:
    request = parse({"PROMPT": text("x"), "SEED": np.array([-3], np.int64)})
    negative = torch.Generator().manual_seed(-3)
    same = torch.Generator().manual_seed(request.seed)
    assert torch.equal(torch.randn(4, generator=negative), torch.randn(4, generator=same))


@pytest.mark.parametrize("empty", ["", "  ", "[]"])
def test_no_adapters_is_the_base(empty: str) -> None:
    assert parse({"PROMPT": text("x"), "ADAPTERS": text(empty)}).adapters == ()


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({}, "PROMPT: missing"),
        ({"PROMPT": np.array([], dtype=np.object_)}, "PROMPT: has 0 values"),
        ({"PROMPT": text(b"\xff\xfe")}, "PROMPT: is not UTF-8"),
        ({"STEPS": np.array([1, 2], np.int32)}, "STEPS: has 2 values"),
        ({"ADAPTERS": text("thor-cat")}, "ADAPTERS: "),
        ({"ADAPTERS": text('{"name": "a"}')}, "ADAPTERS: "),
        ({"ADAPTERS": text('[{"version": 2}]')}, "ADAPTERS[0].name: "),
        ({"ADAPTERS": text('[{"name": "a"}, {"name": "b", "version": 0}]')}, "ADAPTERS[1].version"),
        ({"ADAPTERS": text('[{"name": "a", "version": "2"}]')}, "ADAPTERS[0].version: "),
        ({"ADAPTERS": text('[{"name": "a", "weight": NaN}]')}, "ADAPTERS[0].weight: "),
        ({"ADAPTERS": text('[{"name": "a", "scale": 1}]')}, "ADAPTERS[0].scale: "),
    ],
)
def test_an_input_that_cannot_be_read_is_named(inputs: dict[str, np.ndarray], named: str) -> None:
    given_inputs = inputs if not inputs or "PROMPT" in inputs else {"PROMPT": text("x"), **inputs}
    with pytest.raises(RequestError) as refused:
        parse(given_inputs)
    assert str(refused.value).startswith(named)


def test_info_says_all_that_makes_the_picture_again() -> None:
    result = ImageResult(
        images=np.zeros((2, 8, 8, 3), np.uint8),
        seeds=(2**64 - 1, 0),
        adapters=(UsedAdapter(name="thor-cat", version=3, digest="sha256:ab", weight=0.8),),
        backend="torch",
        engine_digest="sha256:cd",
        warnings=("prompt: 3 words were dropped",),
        timings={"total": 0.12345678},
    )
    assert json.loads(info(result, base="sha256:ef")) == {
        "seeds": [2**64 - 1, 0],
        "adapters": [{"name": "thor-cat", "version": 3, "digest": "sha256:ab", "weight": 0.8}],
        "base": "sha256:ef",
        "backend": "torch",
        "engine_digest": "sha256:cd",
        "warnings": ["prompt: 3 words were dropped"],
        "timings": {"total": 0.123457},
    }
