"""The requests that run during the swap, and the check of their images.

Each request uses one of a few pairs of prompt and seed. For each pair, both versions also generate
a reference image without traffic. The image of each response is compared with the reference image
of the version that the response names by digest.
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
STEPS: Final = 6  # denoising steps; few, because the traffic does not test image quality
# difference of a pixel value, of 255; the composition of a batch changes float rounding
TOLERANCE: Final = 2

Pixels: TypeAlias = NDArray[np.uint8]
Request: TypeAlias = tuple[str, int]  # prompt, seed
GeneratedImage: TypeAlias = tuple[int, str, Pixels]  # version, digest, pixels


@dataclass(frozen=True)
class TrafficAnswer:
    """One response. Times are in seconds since the start of the traffic."""

    asked: float  # time of the request
    came: float  # time of the response
    request: Request
    version: int
    digest: str
    pixels: Pixels


def traffic(
    client: GatewayClient, adapter: str, requests: Sequence[Request]
) -> LoadGenerator[GeneratedImage]:
    """Return a load generator that cycles through the requests."""
    return LoadGenerator(lambda number: generate(client, adapter, requests[number % len(requests)]))


def traffic_answers(
    load: LoadGenerator[GeneratedImage], requests: Sequence[Request]
) -> list[TrafficAnswer]:
    """Return the responses to the requests of `traffic`, each with its request."""
    return [
        TrafficAnswer(call.asked, call.came, requests[call.number % len(requests)], *call.answer)
        for call in load.answers
    ]


def generate(client: GatewayClient, adapter: str, request: Request) -> GeneratedImage:
    """Generate one image, and return its version, digest and pixels."""
    prompt, seed = request
    answer = client.generate(prompt=prompt, seed=seed, adapter=adapter, steps=STEPS)
    served: dict[str, Any] = answer.body["adapters"][0]
    return served["version"], served["digest"], pixels_of(answer.pictures[0].png)


def pixels_of(png: bytes) -> Pixels:
    """Return the pixels of a PNG, uint8 [height, width, 3]."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def pixel_difference(first: Pixels, second: Pixels) -> int:
    """Return the largest difference of corresponding pixel values, 0 to 255."""
    return int(np.abs(first.astype(np.int16) - second.astype(np.int16)).max())


def mismatches(
    answers: Sequence[TrafficAnswer], references: dict[tuple[Request, str], Pixels]
) -> list[TrafficAnswer]:
    """Return the responses whose image differs from its reference image or has none."""

    def differs(answer: TrafficAnswer) -> bool:
        reference = references.get((answer.request, answer.digest))
        return reference is None or pixel_difference(answer.pixels, reference) > TOLERANCE

    return [answer for answer in answers if differs(answer)]
