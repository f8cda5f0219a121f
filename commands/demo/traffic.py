"""Requests that run during the swap, and the check that each picture comes from one version.

Every request uses one of a few prompts and seeds. Their pictures are drawn with both versions
afterwards, so each answer can be compared with the pictures of the digest that it names.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from commands.load import LoadGenerator
from commands.serve.gateway_client import GatewayClient

CLIENTS: Final = 3
STEPS: Final = 6  # denoising steps; the traffic tests the swap, not the quality
TOLERANCE: Final = 2  # of 255; other requests in the batch may change the last bit of a float

Pixels: TypeAlias = NDArray[np.uint8]
Shot: TypeAlias = tuple[str, int]  # prompt, seed
Drawn: TypeAlias = tuple[int, str, Pixels]  # version, digest, pixels


@dataclass(frozen=True)
class Seen:
    """One answer, with the times of request and answer in seconds since the traffic began."""

    asked: float
    came: float
    shot: Shot
    version: int
    digest: str
    pixels: Pixels


def traffic(client: GatewayClient, adapter: str, shots: Sequence[Shot]) -> LoadGenerator[Drawn]:
    """Clients that ask for the shots in turn."""
    return LoadGenerator(lambda number: ask(client, adapter, shots[number % len(shots)]))


def seen(load: LoadGenerator[Drawn], shots: Sequence[Shot]) -> list[Seen]:
    """The answers of `traffic`, each with its shot."""
    return [
        Seen(call.asked, call.came, shots[call.number % len(shots)], *call.answer)
        for call in load.answers
    ]


def ask(client: GatewayClient, adapter: str, shot: Shot) -> Drawn:
    """Draw one picture; returns its version, digest and pixels."""
    prompt, seed = shot
    answer = client.generate(prompt=prompt, seed=seed, adapter=adapter, steps=STEPS)
    used: dict[str, Any] = answer.body["adapters"][0]
    return used["version"], used["digest"], pixels_of(answer.pictures[0].png)


def pixels_of(png: bytes) -> Pixels:
    """The pixels of a PNG, uint8 [height, width, 3]."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def apart(one: Pixels, other: Pixels) -> int:
    """The largest difference between corresponding pixels, of 255."""
    return int(np.abs(one.astype(np.int16) - other.astype(np.int16)).max())


def strangers(answers: Sequence[Seen], known: dict[tuple[Shot, str], Pixels]) -> list[Seen]:
    """The answers whose picture does not match the digest that they name."""

    def differs(answer: Seen) -> bool:
        pixels = known.get((answer.shot, answer.digest))
        return pixels is None or apart(answer.pixels, pixels) > TOLERANCE

    return [answer for answer in answers if differs(answer)]
