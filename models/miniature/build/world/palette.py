"""The colours of the world: few and clearly different, so that each matches its name."""

from typing import Final

Rgb = tuple[int, int, int]

COLOURS: Final[dict[str, Rgb]] = {
    "red": (218, 48, 48),
    "orange": (244, 140, 36),
    "yellow": (250, 214, 60),
    "green": (52, 168, 76),
    "blue": (48, 92, 220),
    "purple": (140, 70, 196),
    "pink": (248, 150, 196),
    "white": (248, 248, 246),
    "black": (44, 42, 50),
    "grey": (140, 144, 152),
}

# The second colour of a figure unless its caption names another. It is fixed, because a small model
# would average over random choices.
ACCENTS: Final[dict[str, str]] = {
    "red": "yellow",
    "orange": "white",
    "yellow": "blue",
    "green": "yellow",
    "blue": "white",
    "purple": "yellow",
    "pink": "white",
    "white": "pink",
    "black": "red",
    "grey": "pink",
}


def darker(colour: Rgb, factor: float = 0.6) -> Rgb:
    """Return the colour multiplied by `factor`."""
    red, green, blue = (int(value * factor) for value in colour)
    return red, green, blue
