"""Requests: what cannot be drawn is refused by the name of its field."""

import math
from dataclasses import replace
from typing import Any

import pytest

from atelier.contract.request import AdapterUse, ImageRequest, RequestError

GOOD = ImageRequest("a cat", width=64, height=128, adapters=(AdapterUse("cat", 3, 0.5),))


def test_a_good_request_passes() -> None:
    GOOD.validate()
    ImageRequest("").validate()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", 151),
        ("seed", -1),
        ("seed", 2**64),
        ("images", 0),
        ("images", 9),
        ("guidance_scale", -0.1),
        ("guidance_scale", math.nan),
        ("width", 24),
        ("width", 100),
        ("height", 4096),
        ("scheduler", "eulr"),
        ("prompt", "x" * 10_001),
        ("negative_prompt", "x" * 10_001),
        ("deadline", 0.0),
        ("deadline", math.nan),
        ("adapters", (AdapterUse("cat", weight=math.inf),)),
        ("adapters", tuple(AdapterUse(f"a{i}") for i in range(9))),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_field(field: str, value: Any) -> None:
    with pytest.raises(RequestError, match=field.removesuffix("s")):
        replace(GOOD, **{field: value}).validate()


def test_a_size_off_the_grid_is_told_the_next_one() -> None:
    with pytest.raises(RequestError, match="100 is not a multiple of 8; try 96"):
        ImageRequest("a cat", width=100).validate()
