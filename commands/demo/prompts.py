"""The demo's prompts: the character in places that its pictures do not show and in one that they
do, and subjects that must not change (another of its kind, and an unrelated one).
"""

from dataclasses import dataclass
from typing import Final

STEPS: Final = 25


@dataclass(frozen=True)
class Ask:
    """One prompt and seed. `{trigger}` stands for the trigger words; some prompts have none."""

    prompt: str
    seed: int


SHEET: Final = (
    Ask("a photo of a {trigger} in the forest", 3),
    Ask("a photo of a {trigger} in the snow", 7),
    Ask("a photo of a {trigger} in space", 11),
    Ask("a photo of a {trigger} on the beach", 5),
    Ask("a photo of a cat in the forest", 4),
    Ask("a photo of a red robot in the desert", 2),
)
FRESH: Final = (
    Ask("a {trigger} in the snow", 21),
    Ask("a {trigger} in the forest", 22),
    Ask("a {trigger} in space", 23),
)
TRAFFIC: Final = (
    Ask("a photo of a {trigger} in the forest", 31),
    Ask("a photo of a {trigger} in the snow", 32),
    Ask("a photo of a {trigger} on the beach", 33),
)
