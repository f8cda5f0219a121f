"""What the demo asks for. The places are ones that the training pictures do not show."""

from dataclasses import dataclass
from typing import Final

STEPS: Final = 25


@dataclass(frozen=True)
class Ask:
    """One picture: `{trigger}` stands for the adapter's words; `plain` prompts do without them."""

    prompt: str
    seed: int
    plain: bool = False


SHEET: Final = (
    Ask("a photo of a {trigger} in the forest", 3),
    Ask("a photo of a {trigger} in the snow", 7),
    Ask("a photo of a {trigger} in the city at night", 11),
    Ask("a photo of a {trigger} on the beach", 5),
    Ask("a photo of a red robot in the desert", 2, plain=True),
)
FRESH: Final = (
    Ask("a photo of a {trigger} in the desert", 21),
    Ask("a photo of a {trigger} under the sea", 22),
    Ask("a photo of a {trigger} in a room", 23),
)
TRAFFIC: Final = (
    Ask("a photo of a {trigger} in the forest", 31),
    Ask("a photo of a {trigger} in the snow", 32),
    Ask("a photo of a {trigger} on the beach", 33),
)
