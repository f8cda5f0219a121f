"""Swap versions under traffic, and measure the swap from the side of the clients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from atelier.errors import Refused
from commands.demo.clock import duration
from commands.demo.traffic import (
    CLIENTS,
    Pixels,
    Request,
    TrafficAnswer,
    generate,
    mismatches,
    pixel_difference,
    traffic,
    traffic_answers,
)
from commands.demo.versions import RegisteredVersion
from commands.serve.gateway_client import GatewayClient

AROUND: Final = 50  # responses to wait for before the swap, and again from the new version


@dataclass(frozen=True)
class Swap:
    """The measurements of the clients during a swap. Times are in seconds."""

    answers: Sequence[TrafficAnswer]
    began: float  # from the start of the traffic to the promotion
    seconds: float  # duration of the promotion, including the smoke test and the change of alias
    first_image: float  # from the start of the promotion to the first image of the new version
    before: int  # number of responses by the old version
    after: int  # number of responses by the new version
    largest_difference: int  # largest difference of a pixel value from the reference image, of 255

    def __str__(self) -> str:
        return (
            f"{len(self.answers)} requests, none failed: {self.before} by the old version, "
            f"{self.after} by the new version; first image of the new version after "
            f"{duration(self.first_image)}, promotion complete after {duration(self.seconds)}"
        )


def swap_under_traffic(
    client: GatewayClient,
    requests: list[Request],
    first: RegisteredVersion,
    second: RegisteredVersion,
    promote: Callable[[], None],
) -> Swap:
    """Promote `second` while clients send requests, and return the measurements.

    Raises Refused if a request fails, or if an image does not match the digest in its response.
    """
    name = first.recipe.adapter
    references = _references(client, name, first, requests)
    load = traffic(client, name, requests)
    with load.running(CLIENTS):
        load.wait_for(AROUND)
        began = load.now
        promote()
        seconds = load.now - began
        load.wait_for(AROUND, where=lambda image: image[0] == second.version)
    if load.failures:
        raise Refused(f"{len(load.failures)} requests failed; the first: {load.failures[0]}")
    references |= _references(client, name, second, requests)
    answers = traffic_answers(load, requests)
    wrong = mismatches(answers, references)
    if wrong:
        raise Refused(f"{len(wrong)} images do not match the digests in their responses")
    new = [answer for answer in answers if answer.version == second.version]
    return Swap(
        answers=tuple(answers),
        began=began,
        seconds=seconds,
        first_image=min(answer.came for answer in new) - began,
        before=len(answers) - len(new),
        after=len(new),
        largest_difference=max(
            pixel_difference(answer.pixels, references[answer.request, answer.digest])
            for answer in answers
        ),
    )


def _references(
    client: GatewayClient, name: str, version: RegisteredVersion, requests: list[Request]
) -> dict[tuple[Request, str], Pixels]:
    """Generate the reference image of each request with one version.

    The keys are pairs of request and digest.
    """
    references = {}
    for request in requests:
        _, digest, pixels = generate(client, f"{name}@{version.version}", request)
        references[request, digest] = pixels
    return references
