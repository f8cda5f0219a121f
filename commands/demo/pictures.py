"""Pictures over HTTP, and what must be equal or must differ between them."""

from collections.abc import Sequence
from dataclasses import dataclass

from atelier.errors import Refused
from commands.demo.prompts import STEPS, Ask
from commands.demo.traffic import apart, pixels_of
from commands.serve.gateway_client import GatewayClient


@dataclass(frozen=True)
class Photographer:
    """One client of the gateway, asking for one picture at a time."""

    client: GatewayClient
    trigger: str
    steps: int = STEPS

    def take(self, asks: Sequence[Ask], adapter: str | None) -> list[bytes]:
        """A PNG for each, by `name` or `name@version`, or by the base alone."""
        return [self._one(ask, adapter) for ask in asks]

    def words(self, ask: Ask) -> str:
        """The prompt as it is sent."""
        return ask.prompt.replace("{trigger}", self.trigger)

    def _one(self, ask: Ask, adapter: str | None) -> bytes:
        answer = self.client.generate(
            prompt=self.words(ask),
            seed=ask.seed,
            steps=self.steps,
            adapter=adapter,
            fill_trigger=False,  # the words above are all there is to fill in
        )
        return answer.pictures[0].png


def require_same(ones: Sequence[bytes], others: Sequence[bytes], what: str) -> str:
    """A sentence, if every pair is identical in every pixel; Refused otherwise."""
    differences = [_apart(pair) for pair in zip(ones, others, strict=True)]
    if any(differences):
        raise Refused(f"{what}: pixels differ by up to {max(differences)} of 255")
    return f"{what}: {len(differences)} of {len(differences)} pictures identical in every pixel"


def require_different(ones: Sequence[bytes], others: Sequence[bytes], what: str) -> str:
    """A sentence, if no pair is identical; Refused otherwise."""
    differences = [_apart(pair) for pair in zip(ones, others, strict=True)]
    if not all(differences):
        raise Refused(f"{what}: some pictures are identical, though they should differ")
    return f"{what}: every picture differs, by {min(differences)} to {max(differences)} of 255"


def _apart(pair: tuple[bytes, bytes]) -> int:
    one, other = pair
    return apart(pixels_of(one), pixels_of(other))
