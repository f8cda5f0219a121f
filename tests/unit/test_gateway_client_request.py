"""Which kind of answer an Accept header asks for."""

import pytest

from services.gateway.client_request import best

OFFERED = ("application/json", "image/png")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("image/png", "image/png"),
        ("IMAGE/PNG", "image/png"),
        ("image/*", "image/png"),
        ("application/json, image/png", "application/json"),
        ("application/json;q=0.5, image/png", "image/png"),
        ("image/png;q=0, */*", "application/json"),
        ("text/html, image/avif, image/png, */*;q=0.8", "image/png"),
        ("image/png;q=nonsense", "image/png"),
        ("text/html", None),
        ("image/png;q=0", None),
    ],
)
def test_best(accept: str, chosen: str | None) -> None:
    assert best(accept, OFFERED) == chosen
