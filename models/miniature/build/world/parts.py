"""Draws the parts that a subject wears or holds; the base is trained on `COMMON_WEAR` only."""

from collections.abc import Callable
from typing import Final

from .figures import Anatomy
from .palette import Rgb, darker
from .pen import Pen

_GOLD: Final[Rgb] = (240, 190, 50)
_STEEL: Final[Rgb] = (176, 184, 196)
_WOOD: Final[Rgb] = (120, 78, 46)
_IVORY: Final[Rgb] = (252, 250, 240)

Part = Callable[[Pen, Anatomy, Rgb], None]


def _hat(pen: Pen, anatomy: Anatomy, colour: Rgb) -> None:
    (x, y), half = anatomy.crown, anatomy.head
    pen.slab((x - half * 0.62, y - 0.5, x + half * 0.62, y + 0.04), colour, corner=0.04)
    pen.slab((x - half * 1.1, y - 0.06, x + half * 1.1, y + 0.1), colour, corner=0.06)


def _party_hat(pen: Pen, anatomy: Anatomy, colour: Rgb) -> None:
    (x, y), half = anatomy.crown, anatomy.head
    pen.polygon([(x - half * 0.7, y + 0.1), (x + half * 0.7, y + 0.1), (x, y - 0.66)], colour)
    pen.circle((x, y - 0.62), 0.12, _IVORY)


def _crown(pen: Pen, anatomy: Anatomy, colour: Rgb) -> None:
    (x, y), half = anatomy.crown, anatomy.head * 0.85
    tops = [(-1, -0.46), (-0.5, -0.12), (0, -0.52), (0.5, -0.12), (1, -0.46)]
    outline = [(x - half, y + 0.12), *((x + half * dx, y + dy) for dx, dy in tops)]
    pen.polygon([*outline, (x + half, y + 0.12)], colour)


def _winged_helmet(pen: Pen, anatomy: Anatomy, colour: Rgb) -> None:
    (x, y), half = anatomy.crown, anatomy.head * 1.15
    for side in (-1, 1):
        root = x + side * half * 0.85
        tip = x + side * (half + 0.42)
        pen.polygon(
            [
                (root, y + 0.16),
                (root - side * 0.06, y - 0.22),
                (tip, y - 0.62),
                (tip + side * 0.04, y - 0.26),
                (tip - side * 0.04, y + 0.02),
            ],
            _IVORY,
        )
    pen.slice((x - half, y - 0.42, x + half, y + 0.66), 180, 360, colour)
    pen.slab((x - half, y + 0.06, x + half, y + 0.2), darker(colour, 0.75), corner=0.05)


def _scarf(pen: Pen, anatomy: Anatomy, colour: Rgb) -> None:
    x, y = anatomy.neck
    pen.slab((x + 0.1, y, x + 0.36, y + 0.52), darker(colour, 0.8), corner=0.08)
    pen.slab((x - 0.56, y - 0.1, x + 0.56, y + 0.14), colour, corner=0.12)


def _bow(pen: Pen, anatomy: Anatomy, colour: Rgb) -> None:
    x, y = anatomy.neck
    for side in (-1, 1):
        pen.polygon([(x, y), (x + side * 0.44, y - 0.24), (x + side * 0.44, y + 0.24)], colour)
    pen.circle((x, y), 0.12, darker(colour, 0.75))


def _hammer(pen: Pen, anatomy: Anatomy, colour: Rgb) -> None:
    x, y = anatomy.grip
    pen.stroke([(x, y + 0.35), (x, y - 0.3)], 0.13, _WOOD)
    pen.slab((x - 0.3, y - 0.6, x + 0.3, y - 0.24), colour, corner=0.06)


def _wand(pen: Pen, anatomy: Anatomy, colour: Rgb) -> None:
    x, y = anatomy.grip
    pen.stroke([(x - 0.1, y + 0.3), (x + 0.12, y - 0.4)], 0.12, _WOOD)
    pen.circle((x + 0.16, y - 0.48), 0.2, colour)


def _shield(pen: Pen, anatomy: Anatomy, colour: Rgb) -> None:
    x, y = anatomy.grip
    pen.circle((x, y), 0.38, colour)
    pen.circle((x, y), 0.18, _IVORY)


def _cape(pen: Pen, anatomy: Anatomy, colour: Rgb) -> None:
    x, y = anatomy.neck
    top = y - 0.3  # behind the head, so that the shoulders are fully covered
    pen.polygon([(x - 0.72, top), (x + 0.72, top), (x + 1.2, 1.12), (x - 1.2, 1.12)], colour)


HEADGEAR: Final[dict[str, Part]] = {
    "hat": _hat,
    "crown": _crown,
    "party hat": _party_hat,
    "winged helmet": _winged_helmet,
}
NECKWEAR: Final[dict[str, Part]] = {"scarf": _scarf, "bow": _bow}
HELD: Final[dict[str, Part]] = {"hammer": _hammer, "wand": _wand, "shield": _shield}
BEHIND: Final[dict[str, Part]] = {"cape": _cape}

# The only parts in the training pictures of the base model, each in a fixed colour.
COMMON_WEAR: Final[dict[str, Rgb]] = {
    "hat": (84, 56, 150),
    "crown": _GOLD,
    "scarf": (206, 40, 60),
    "bow": (236, 70, 150),
}
METALS: Final[dict[str, Rgb]] = {"gold": _GOLD, "steel": _STEEL}
