"""What the demo asks for: the character in places that its pictures do not show and in one that
they do, and what has to stay as it was: others of its kind, and anything else.
"""

from dataclasses import dataclass
from typing import Final

STEPS: Final = 25


@dataclass(frozen=True)
class Ask:
    """One picture; `{trigger}` stands for the adapter's words, and some prompts do without."""

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
