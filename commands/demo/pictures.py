"""Draws pictures over HTTP and checks which of them are equal and which differ."""

from collections.abc import Sequence
from dataclasses import dataclass

from atelier.errors import Refused
from commands.demo.prompts import STEPS, Ask
from commands.demo.traffic import apart, pixels_of
from commands.serve.gateway_client import GatewayClient


@dataclass(frozen=True)
class Photographer:
    """A client of the gateway that draws one picture at a time."""

    client: GatewayClient
    trigger: str
    steps: int = STEPS

    def take(self, asks: Sequence[Ask], adapter: str | None) -> list[bytes]:
        """A PNG for each prompt, with the adapter `name` or `name@version`, or the base alone."""
        return [self._one(ask, adapter) for ask in asks]

    def words(self, ask: Ask) -> str:
        """The prompt with the trigger filled in."""
        return ask.prompt.replace("{trigger}", self.trigger)

    def _one(self, ask: Ask, adapter: str | None) -> bytes:
        answer = self.client.generate(
            prompt=self.words(ask),
            seed=ask.seed,
            steps=self.steps,
            adapter=adapter,
            fill_trigger=False,  # words() has filled in the trigger
        )
        return answer.pictures[0].png


def require_same(ones: Sequence[bytes], others: Sequence[bytes], what: str) -> str:
    """A sentence if every pair is identical in every pixel; otherwise raises Refused."""
    differences = [_apart(pair) for pair in zip(ones, others, strict=True)]
    if any(differences):
        raise Refused(f"{what}: pixels differ by up to {max(differences)} of 255")
    return f"{what}: {len(differences)} of {len(differences)} pictures identical in every pixel"


def require_different(ones: Sequence[bytes], others: Sequence[bytes], what: str) -> str:
    """A sentence if no pair is identical; otherwise raises Refused."""
    differences = [_apart(pair) for pair in zip(ones, others, strict=True)]
    if not all(differences):
        raise Refused(f"{what}: some pictures are identical, though they should differ")
    return f"{what}: every picture differs, by {min(differences)} to {max(differences)} of 255"


def _apart(pair: tuple[bytes, bytes]) -> int:
    return apart(*map(pixels_of, pair))
