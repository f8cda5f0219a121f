"""What the gateway's refusals become on this side of the wire."""

import json

import httpx2
import pytest

from atelier.errors import AtelierError, BadInput, Refused, Unavailable
from commands.serve.gateway_client import _translated


def answer(status: int, body: bytes, **headers: str) -> httpx2.Response:
    return httpx2.Response(
        status,
        content=body,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        extensions={"reason_phrase": b"Something"},
    )


def problem(detail: str) -> bytes:
    return json.dumps({"type": "urn:atelier:problem:x", "title": "X", "detail": detail}).encode()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadInput),
        (404, BadInput),
        (422, BadInput),
        (401, Refused),
        (403, Refused),
        (429, Refused),
        (500, Unavailable),
        (502, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
    ],
)
def test_a_status_tells_whether_asking_again_makes_sense(
    status: int, kind: type[AtelierError]
) -> None:
    error = _translated(answer(status, problem("width: 100 is not a multiple of 8; try 104")))
    assert type(error) is kind
    assert (
        str(error) == f"the gateway returned {status}: width: 100 is not a multiple of 8; try 104"
    )


def test_when_to_come_back_is_kept() -> None:
    error = _translated(answer(503, problem("busy"), Retry_After="7"))
    assert isinstance(error, Unavailable) and error.retry_after == 7.0


def test_a_proxy_that_answers_in_html_is_told_by_its_status() -> None:
    assert "502: Something" in str(_translated(answer(502, b"<html>")))
