"""Generate images over HTTP, and check that images are identical or that they differ."""

from collections.abc import Sequence
from dataclasses import dataclass

from atelier.errors import Refused
from commands.demo.prompts import STEPS, SeededPrompt
from commands.demo.traffic import pixel_difference, pixels_of
from commands.serve.gateway_client import GatewayClient


@dataclass(frozen=True)
class ImageClient:
    """A client of the gateway that generates one image at a time."""

    client: GatewayClient
    trigger: str
    steps: int = STEPS

    def generate(self, prompts: Sequence[SeededPrompt], adapter: str | None) -> list[bytes]:
        """Return a PNG for each prompt.

        `adapter` is `name` or `name@version`; None means the base without an adapter.
        """
        return [self._generate(prompt, adapter) for prompt in prompts]

    def prompt(self, prompt: SeededPrompt) -> str:
        """Return the text of the prompt with the trigger filled in."""
        return prompt.prompt.replace("{trigger}", self.trigger)

    def _generate(self, prompt: SeededPrompt, adapter: str | None) -> bytes:
        answer = self.client.generate(
            prompt=self.prompt(prompt),
            seed=prompt.seed,
            steps=self.steps,
            adapter=adapter,
            fill_trigger=False,  # the prompt already contains the trigger
        )
        return answer.pictures[0].png


def require_same(first: Sequence[bytes], second: Sequence[bytes], label: str) -> str:
    """Return a sentence for the report if each pair of PNGs is identical, else raise Refused."""
    differences = [_difference(pair) for pair in zip(first, second, strict=True)]
    if any(differences):
        raise Refused(
            f"{label}: the images should be identical, but pixels differ by up to "
            f"{max(differences)} of 255"
        )
    return f"{label}: {len(differences)} of {len(differences)} images identical in every pixel"


def require_different(first: Sequence[bytes], second: Sequence[bytes], label: str) -> str:
    """Return a sentence for the report if no pair of PNGs is identical, else raise Refused."""
    differences = [_difference(pair) for pair in zip(first, second, strict=True)]
    if not all(differences):
        raise Refused(f"{label}: the images should differ, but some are identical")
    return f"{label}: every image differs, by {min(differences)} to {max(differences)} of 255"


def _difference(pair: tuple[bytes, bytes]) -> int:
    return pixel_difference(*map(pixels_of, pair))
