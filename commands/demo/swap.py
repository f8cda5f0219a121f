"""The swap of versions under traffic, as the clients measure it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from atelier.errors import Refused
from commands.demo.clock import duration
from commands.demo.making import MadeVersion
from commands.demo.traffic import (
    CLIENTS,
    Pixels,
    Seen,
    Shot,
    apart,
    ask,
    seen,
    strangers,
    traffic,
)
from commands.serve.gateway_client import GatewayClient

AROUND: Final = 50  # answers before the swap begins, and of the new version after it


@dataclass(frozen=True)
class Swap:
    """The clients' view of the swap. Times are in seconds."""

    seen: Sequence[Seen]
    began: float  # since the traffic began
    seconds: float  # until the promotion was verified and the alias moved
    first_picture: float  # from the promotion's beginning to the first picture of the new version
    before: int
    after: int
    largest_difference: int  # of any pixel from the pictures of the answer's digest, of 255

    def __str__(self) -> str:
        return (
            f"{len(self.seen)} requests, none failed: {self.before} by the old version, "
            f"{self.after} by the new; its first picture after {duration(self.first_picture)}, "
            f"verified after {duration(self.seconds)}"
        )


def swap_under_traffic(
    client: GatewayClient,
    shots: list[Shot],
    first: MadeVersion,
    second: MadeVersion,
    promote: Callable[[], None],
) -> Swap:
    """Promote `second` while clients send requests. Refused if any request or picture is wrong."""
    name = first.recipe.adapter
    known = _pictures(client, name, first, shots)
    load = traffic(client, name, shots)
    with load.running(CLIENTS):
        load.wait_for(AROUND)
        began = load.now
        promote()
        seconds = load.now - began
        load.wait_for(AROUND, where=lambda drawn: drawn[0] == second.version)
    if load.failures:
        raise Refused(f"{len(load.failures)} requests failed, first: {load.failures[0]}")
    known |= _pictures(client, name, second, shots)
    answers = seen(load, shots)
    mismatches = strangers(answers, known)
    if mismatches:
        raise Refused(f"{len(mismatches)} pictures do not match the digest in their answer")
    new = [answer for answer in answers if answer.version == second.version]
    return Swap(
        seen=tuple(answers),
        began=began,
        seconds=seconds,
        first_picture=min(answer.came for answer in new) - began,
        before=len(answers) - len(new),
        after=len(new),
        largest_difference=max(
            apart(answer.pixels, known[answer.shot, answer.digest]) for answer in answers
        ),
    )


def _pictures(
    client: GatewayClient, name: str, version: MadeVersion, shots: list[Shot]
) -> dict[tuple[Shot, str], Pixels]:
    """The pictures of every shot by one version, requested by its number."""
    pictures = {}
    for shot in shots:
        _, digest, pixels = ask(client, f"{name}@{version.version}", shot)
        pictures[shot, digest] = pixels
    return pictures
