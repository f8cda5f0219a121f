"""A client's request beside its body: the media types that it accepts, and its hang-up."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Request

CLIENT_CLOSED = 499  # nginx's number for it; nobody is there to read it but the log


def best(accept: str, offered: Sequence[str]) -> str | None:
    """The media type of `offered` that `accept` likes most, the first among equals; None: none."""
    if not accept.strip():
        return offered[0]
    ranges = [_range(part) for part in accept.split(",")]
    liked = [(_quality(one, ranges), -index, one) for index, one in enumerate(offered)]
    quality, _, media_type = max(liked)
    return media_type if quality > 0 else None


def _range(text: str) -> tuple[str, float]:
    """`image/png;q=0.5` as type and quality; a quality that cannot be read counts as 1."""
    media_type, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = min(1.0, max(0.0, float(value)))
            except ValueError:
                quality = 1.0
    return media_type, quality


def _quality(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """By the most specific range that fits."""
    kind = media_type.partition("/")[0]
    for wanted in (media_type, f"{kind}/*", "*/*"):
        found = [quality for name, quality in ranges if name == wanted]
        if found:
            return max(found)
    return 0.0


async def hung_up(request: Request) -> None:
    """Return when the client has closed its connection; to be called once the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
