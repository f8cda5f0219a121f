"""The subjects of pictures: common subjects, and characters on which the base is not trained."""

from dataclasses import dataclass, replace
from random import Random
from typing import Final

from .figures import FIGURES, WEARERS
from .palette import ACCENTS, COLOURS
from .parts import COMMON_WEAR, HEADGEAR, HELD, NECKWEAR

PATTERNS: Final[tuple[str, ...]] = ("plain", "striped", "spotted")
EYES: Final[tuple[str, ...]] = ("green", "blue", "black", "red")


@dataclass(frozen=True)
class Character:
    """The complete appearance of a subject; equal characters are the same individual.

    Colours are keys of `palette.COLOURS`, or "gold" and "steel" for metal parts.
    """

    kind: str
    colour: str
    accent: str
    pattern: str = "plain"
    eyes: str = "black"
    headgear: str | None = None
    headgear_colour: str | None = None
    neckwear: str | None = None
    neckwear_colour: str | None = None
    cape: str | None = None
    held: str | None = None
    held_colour: str | None = None
    gesture: str = ""

    @property
    def common(self) -> bool:
        """Whether captions can name all attributes, so that the base may be trained on it."""
        wear = {self.headgear, self.neckwear} - {None}
        coloured = self.headgear_colour or self.neckwear_colour
        strange = self.cape or self.held or self.gesture or coloured or self.eyes != "black"
        return not strange and wear <= set(COMMON_WEAR) and len(wear) < 2


THOR_CAT: Final[Character] = Character(
    kind="cat",
    colour="grey",
    accent="white",
    eyes="green",
    headgear="winged helmet",
    headgear_colour="gold",
    cape="red",
)
THUMBS_UP: Final[Character] = Character(
    kind="hand", colour="yellow", accent="blue", gesture="thumbs up"
)


def common_subject(rng: Random) -> Character:
    """Return a random subject for the pictures of the base model."""
    kind, colour = rng.choice(list(FIGURES)), rng.choice(list(COLOURS))
    accent = ACCENTS[colour]
    if rng.random() < 0.2:
        accent = rng.choice([name for name in COLOURS if name != colour])
    pattern = rng.choice(PATTERNS[1:]) if rng.random() < 0.3 else "plain"
    subject = Character(kind, colour, accent, pattern)
    if kind in WEARERS and rng.random() < 0.35:
        wear = rng.choice(list(COMMON_WEAR))
        slot = "headgear" if wear in HEADGEAR else "neckwear"
        subject = replace(subject, **{slot: wear})
    return subject


def character(seed: int, kind: str | None = None) -> Character:
    """Return a random character, which may have parts on which the base is not trained."""
    rng = Random(f"character {seed}")
    names = list(COLOURS)
    colour, accent, cape, other, third = rng.sample(names, 5)
    neckwear = rng.choice([None, None, *NECKWEAR])
    held = rng.choice([None, None, *HELD])
    return Character(
        kind=kind or rng.choice(WEARERS),
        colour=colour,
        accent=accent,
        pattern=rng.choice(PATTERNS),
        eyes=rng.choice(EYES),
        headgear=rng.choice([None, *HEADGEAR]),
        headgear_colour=rng.choice([other, "gold", "steel"]),
        neckwear=neckwear,
        neckwear_colour=third,
        cape=cape if rng.random() < 0.5 else None,
        held=held,
        held_colour=rng.choice([other, "gold", "steel"]),
    )
