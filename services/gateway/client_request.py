"""Read a client's `Accept` header, and wait for a client to disconnect."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Request

CLIENT_CLOSED = 499  # nginx's status for a client that disconnected; only the log shows it


def best(accept: str, offered: Sequence[str]) -> str | None:
    """Return the media type of `offered` that an `Accept` header prefers (RFC 9110, 12.5.1).

    Among types of equal quality, the first in `offered` is returned. Return None if the header
    accepts no offered type.
    """
    if not accept.strip():
        return offered[0]
    ranges = [_range(part) for part in accept.split(",")]
    ranked = [(_quality(kind, ranges), -index, kind) for index, kind in enumerate(offered)]
    quality, _, media_type = max(ranked)
    return media_type if quality > 0 else None


def _range(text: str) -> tuple[str, float]:
    """Return type and quality of a range such as `image/png;q=0.5`; an invalid quality is 1."""
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
    """Return the quality of the most specific range that matches; 0 if no range matches."""
    kind = media_type.partition("/")[0]
    for pattern in (media_type, f"{kind}/*", "*/*"):
        qualities = [quality for name, quality in ranges if name == pattern]
        if qualities:
            return max(qualities)
    return 0.0


async def hung_up(request: Request) -> None:
    """Wait until the client closes its connection. The body must have been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
