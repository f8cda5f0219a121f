"""PNG files: every pixel as it was, and how it was made inside; and the V2 tensors of a call."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from atelier.contract.info import Info, UsedAdapter
from atelier.contract.request import AdapterUse
from services.gateway.generation import metadata
from services.gateway.png import encode_png, read_metadata
from services.gateway.triton_client import ImageAnswer, ImageCall, tensors

CALL = ImageCall(
    prompt="sks cat — 雪",
    negative_prompt=None,
    adapters=(AdapterUse("thor-cat", 2, 0.5),),
    scheduler="ddim",
    seed=2**64 - 1,
    steps=20,
    width=None,
    height=64,
    images=2,
    guidance_scale=7.5,
)


def test_pixels_and_metadata_survive() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    png = encode_png(pixels, {"prompt": '雪\0\n"{}'})
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), pixels)
    assert read_metadata(png) == {"prompt": '雪\0\n"{}'}


def test_a_picture_of_others_has_no_metadata() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    assert read_metadata(buffer.getvalue()) is None


def test_metadata_says_all_that_is_needed_to_make_it_again() -> None:
    used = UsedAdapter(name="thor-cat", version=2, digest="sha256:d", weight=0.5)
    info = Info(seeds=(7, 8), adapters=(used,), base="sha256:b", backend="torch", engine_digest="e")
    answer = ImageAnswer(np.zeros((2, 64, 128, 3), np.uint8), info)
    assert metadata(CALL, answer, 1) == {
        "prompt": "sks cat — 雪",
        "negative_prompt": None,
        "seed": 8,
        "steps": 20,
        "scheduler": "ddim",
        "guidance_scale": 7.5,
        "width": 128,
        "height": 64,
        "adapters": [{"name": "thor-cat", "version": 2, "digest": "sha256:d", "weight": 0.5}],
        "base": "sha256:b",
        "backend": "torch",
        "engine_digest": "e",
    }


@pytest.mark.parametrize(
    ("seed", "sent"), [(0, 0), (2**63 - 1, 2**63 - 1), (2**63, -(2**63)), (2**64 - 1, -1)]
)
def test_a_seed_travels_as_its_64_bits(seed: int, sent: int) -> None:
    call = ImageCall(**{**CALL.__dict__, "seed": seed})
    by_name = {tensor.name(): tensor for tensor in tensors(call)}
    raw = by_name["SEED"]._get_content()
    assert np.frombuffer(raw, np.int64)[0] == sent


def test_a_call_sends_what_is_set_and_nothing_else() -> None:
    by_name = {tensor.name(): tensor for tensor in tensors(CALL)}
    assert set(by_name) == {
        *("PROMPT", "ADAPTERS", "SCHEDULER", "SEED", "STEPS", "IMAGES", "GUIDANCE_SCALE"),
        "HEIGHT",
    }
    assert json.loads(by_name["ADAPTERS"]._get_content()[4:]) == [
        {"name": "thor-cat", "version": 2, "weight": 0.5}
    ]
    assert by_name["PROMPT"]._get_content()[4:].decode() == CALL.prompt
