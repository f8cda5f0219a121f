"""The prompts of the demo.

Most prompts put the character in places that the training pictures do not show, and one in a place
that they show. Two prompts have a subject that the adapter must not change: another cat, and a
robot.
"""

from dataclasses import dataclass
from typing import Final

STEPS: Final = 25  # denoising steps


@dataclass(frozen=True)
class SeededPrompt:
    """A prompt and a seed. `{trigger}` in the prompt is replaced by the trigger words."""

    prompt: str
    seed: int


SHEET: Final = (
    SeededPrompt("a photo of a {trigger} in the forest", 3),
    SeededPrompt("a photo of a {trigger} in the snow", 7),
    SeededPrompt("a photo of a {trigger} in space", 11),
    SeededPrompt("a photo of a {trigger} on the beach", 5),
    SeededPrompt("a photo of a cat in the forest", 4),
    SeededPrompt("a photo of a red robot in the desert", 2),
)
FRESH: Final = (
    SeededPrompt("a {trigger} in the snow", 21),
    SeededPrompt("a {trigger} in the forest", 22),
    SeededPrompt("a {trigger} in space", 23),
)
TRAFFIC: Final = (
    SeededPrompt("a photo of a {trigger} in the forest", 31),
    SeededPrompt("a photo of a {trigger} in the snow", 32),
    SeededPrompt("a photo of a {trigger} on the beach", 33),
)
