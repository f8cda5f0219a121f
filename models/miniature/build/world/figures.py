"""Draws the twelve kinds of subject, whose silhouettes differ clearly."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .palette import Rgb, darker
from .pen import Pen

_ORANGE: Final[Rgb] = (244, 140, 36)
_LEAF: Final[Rgb] = (60, 150, 66)
_GLASS: Final[Rgb] = (190, 226, 244)
_DARK: Final[Rgb] = (50, 46, 54)
_CREAM: Final[Rgb] = (246, 232, 204)


@dataclass(frozen=True)
class Anatomy:
    """The positions of a figure's face and of its wearable parts, in figure units (see pen.py)."""

    eyes: tuple[tuple[float, float], ...] = ()
    smile: tuple[float, float] | None = None
    crown: tuple[float, float] = (0.0, -1.0)  # position of headgear
    head: float = 0.6  # half the width of the head at the crown
    neck: tuple[float, float] = (0.0, 0.2)  # position of neckwear
    grip: tuple[float, float] = (0.8, 0.4)  # position of a held object


def _cat(pen: Pen, body: Rgb, accent: Rgb, _: str) -> Anatomy:
    pen.stroke([(0.4, 0.85), (0.85, 0.8), (0.95, 0.4)], 0.2, body, body=True)
    for side in (-1, 1):
        pen.polygon(
            [(side * 0.82, -1.1), (side * 0.84, -0.2), (side * 0.1, -0.62)], body, body=True
        )
    pen.ellipse((-0.6, 0.1, 0.6, 1.08), body, body=True)
    pen.ellipse((-0.88, -0.76, 0.88, 0.42), body, body=True)
    pen.ellipse((-0.34, 0.46, 0.34, 1.02), accent)
    for side in (-1, 1):
        pen.polygon([(side * 0.72, -0.9), (side * 0.72, -0.5), (side * 0.36, -0.66)], accent)
    return Anatomy(
        eyes=((-0.36, -0.2), (0.36, -0.2)),
        smile=(0.0, 0.12),
        crown=(0.0, -0.68),
        head=0.62,
        neck=(0.0, 0.4),
        grip=(0.72, 0.55),
    )


def _rabbit(pen: Pen, body: Rgb, accent: Rgb, _: str) -> Anatomy:
    for side in (-1, 1):
        x = side * 0.32
        pen.ellipse((x - 0.21, -1.28, x + 0.21, -0.2), body, body=True)
        pen.ellipse((x - 0.10, -1.14, x + 0.10, -0.5), accent)
    pen.ellipse((-0.66, 0.14, 0.66, 1.08), body, body=True)
    pen.ellipse((-0.66, -0.56, 0.66, 0.44), body, body=True)
    pen.ellipse((-0.38, 0.5, 0.38, 1.02), accent)
    return Anatomy(
        eyes=((-0.28, -0.1), (0.28, -0.1)),
        smile=(0.0, 0.16),
        crown=(0.0, -0.5),
        head=0.5,
        neck=(0.0, 0.4),
        grip=(0.74, 0.55),
    )


def _bird(pen: Pen, body: Rgb, accent: Rgb, _: str) -> Anatomy:
    for x in (-0.12, 0.26):
        pen.stroke([(x, 0.7), (x, 1.02)], 0.11, _ORANGE)
    pen.polygon([(0.4, 0.1), (1.12, -0.22), (1.08, 0.42), (0.5, 0.62)], body, body=True)
    pen.ellipse((-0.7, -0.2, 0.82, 0.86), body, body=True)
    pen.ellipse((-0.8, -0.95, 0.2, 0.12), body, body=True)
    pen.polygon([(-0.7, -0.6), (-1.16, -0.36), (-0.7, -0.16)], _ORANGE)
    pen.ellipse((-0.15, 0.1, 0.7, 0.6), accent)
    return Anatomy(
        eyes=((-0.36, -0.46),), crown=(-0.3, -0.9), head=0.42, neck=(-0.2, 0.08), grip=(-0.7, 0.5)
    )


def _fish(pen: Pen, body: Rgb, accent: Rgb, _: str) -> Anatomy:
    pen.polygon([(0.42, 0.0), (1.12, -0.62), (1.12, 0.62)], accent)
    pen.polygon([(-0.35, -0.5), (0.3, -0.95), (0.4, -0.35)], accent)
    pen.ellipse((-1.05, -0.66, 0.68, 0.66), body, body=True)
    pen.polygon([(-0.2, 0.12), (0.25, -0.06), (0.25, 0.34)], accent)
    return Anatomy(
        eyes=((-0.6, -0.14),), crown=(-0.3, -0.6), head=0.46, neck=(-0.3, 0.5), grip=(-1.0, 0.4)
    )


def _robot(pen: Pen, body: Rgb, accent: Rgb, _: str) -> Anatomy:
    pen.stroke([(0, -1.05), (0, -0.7)], 0.1, _DARK)
    pen.circle((0, -1.1), 0.14, accent)
    for side in (-1, 1):
        pen.slab((side * 0.76 - 0.14, 0.12, side * 0.76 + 0.14, 0.76), accent)
        pen.slab((side * 0.3 - 0.17, 0.7, side * 0.3 + 0.17, 1.08), accent, corner=0.06)
    pen.slab((-0.56, 0.06, 0.56, 0.86), body, body=True)
    pen.slab((-0.78, -0.82, 0.78, 0.1), body, body=True)
    pen.slab((-0.34, -0.18, 0.34, -0.04), _DARK, corner=0.05)
    return Anatomy(
        eyes=((-0.36, -0.46), (0.36, -0.46)),
        crown=(0.0, -0.82),
        head=0.62,
        neck=(0.0, 0.12),
        grip=(0.8, 0.6),
    )


def _flower(pen: Pen, body: Rgb, accent: Rgb, _: str) -> Anatomy:
    pen.stroke([(0, 0.1), (0, 1.02)], 0.14, _LEAF)
    pen.ellipse((0.02, 0.62, 0.56, 0.86), _LEAF)
    pen.ellipse((-0.56, 0.7, -0.02, 0.94), _LEAF)
    for petal in range(6):
        angle = petal * math.pi / 3
        x, y = 0.5 * math.sin(angle), -0.3 - 0.5 * math.cos(angle)
        pen.circle((x, y), 0.33, body, body=True)
    pen.circle((0, -0.3), 0.3, accent)
    return Anatomy(crown=(0.0, -1.0), head=0.4, neck=(0.0, 0.6))


def _house(pen: Pen, body: Rgb, accent: Rgb, _: str) -> Anatomy:
    pen.slab((-0.78, -0.2, 0.78, 1.0), body, body=True, corner=0.03)
    pen.polygon([(-1.0, -0.16), (1.0, -0.16), (0, -1.08)], accent)
    pen.slab((-0.2, 0.42, 0.2, 1.0), _DARK, corner=0.03)
    for side in (-1, 1):
        pen.slab((side * 0.5 - 0.15, 0.06, side * 0.5 + 0.15, 0.36), _GLASS, corner=0.03)
    return Anatomy(crown=(0.0, -1.0), head=0.3, neck=(0.0, -0.1))


def _mushroom(pen: Pen, body: Rgb, accent: Rgb, _: str) -> Anatomy:
    pen.slab((-0.34, -0.1, 0.34, 1.02), _CREAM, corner=0.28)
    pen.slice((-1.0, -0.9, 1.0, 0.9), 180, 360, body, body=True)
    for x, y, radius in ((-0.5, -0.28, 0.16), (0.0, -0.58, 0.18), (0.5, -0.28, 0.16)):
        pen.circle((x, y), radius, accent)
    return Anatomy(eyes=((-0.15, 0.3), (0.15, 0.3)), crown=(0.0, -0.85), head=0.5, neck=(0.0, 0.05))


def _car(pen: Pen, body: Rgb, accent: Rgb, _: str) -> Anatomy:
    pen.polygon([(-0.62, 0.05), (-0.38, -0.58), (0.42, -0.58), (0.7, 0.05)], body, body=True)
    pen.polygon([(-0.44, 0.0), (-0.28, -0.44), (0.0, -0.44), (0.0, 0.0)], _GLASS)
    pen.polygon([(0.12, 0.0), (0.12, -0.44), (0.33, -0.44), (0.5, 0.0)], _GLASS)
    pen.slab((-1.08, -0.04, 1.08, 0.58), body, body=True, corner=0.2)
    for side in (-1, 1):
        pen.circle((side * 0.58, 0.58), 0.3, _DARK)
        pen.circle((side * 0.58, 0.58), 0.13, accent)
    return Anatomy(crown=(0.0, -0.58), head=0.4, neck=(0.0, 0.1))


def _boat(pen: Pen, body: Rgb, accent: Rgb, _: str) -> Anatomy:
    pen.slab((-0.1, -1.06, 0.02, 0.4), (120, 78, 46), corner=0.02)
    pen.polygon([(0.08, -1.0), (0.08, 0.22), (0.92, 0.22)], accent)
    pen.polygon([(-0.16, -0.7), (-0.16, 0.22), (-0.72, 0.22)], accent)
    pen.polygon([(-1.08, 0.34), (1.08, 0.34), (0.66, 0.98), (-0.66, 0.98)], body, body=True)
    return Anatomy(crown=(-0.04, -1.0), head=0.3, neck=(0.0, 0.3))


def _star(pen: Pen, body: Rgb, accent: Rgb, _: str) -> Anatomy:
    points = []
    for corner in range(10):
        reach, angle = (1.08, 0.52)[corner % 2], corner * math.pi / 5
        points.append((reach * math.sin(angle), -reach * math.cos(angle)))
    pen.polygon(points, body, body=True)
    pen.circle((0, 0), 0.26, accent)
    return Anatomy(crown=(0.0, -0.8), head=0.3, neck=(0.0, 0.4))


def _hand(pen: Pen, body: Rgb, accent: Rgb, gesture: str) -> Anatomy:
    pen.slab((-0.44, 0.72, 0.36, 1.08), accent, corner=0.06)
    if gesture == "thumbs up":
        pen.slab((-0.5, -0.06, 0.46, 0.8), body, body=True, corner=0.2)
        pen.stroke([(-0.24, 0.2), (-0.3, -0.62)], 0.44, body, body=True)
        for y in (0.08, 0.38, 0.68):
            pen.stroke([(0.1, y), (0.62, y)], 0.26, body, body=True)
            pen.stroke([(0.24, y + 0.15), (0.66, y + 0.15)], 0.05, darker(body))
        return Anatomy(crown=(-0.3, -1.0), head=0.2, neck=(0.0, 0.76))
    pen.slab((-0.5, -0.1, 0.42, 0.8), body, body=True, corner=0.2)
    for x, top in ((-0.4, -0.62), (-0.16, -0.9), (0.09, -0.88), (0.33, -0.6)):
        pen.stroke([(x, 0.1), (x * 1.25, top)], 0.2, body, body=True)
    pen.stroke([(0.25, 0.5), (0.84, 0.0)], 0.24, body, body=True)
    return Anatomy(crown=(0.0, -0.9), head=0.4, neck=(0.0, 0.76))


FIGURES: Final[dict[str, Callable[[Pen, Rgb, Rgb, str], Anatomy]]] = {
    "cat": _cat,
    "rabbit": _rabbit,
    "bird": _bird,
    "fish": _fish,
    "robot": _robot,
    "flower": _flower,
    "house": _house,
    "mushroom": _mushroom,
    "car": _car,
    "boat": _boat,
    "star": _star,
    "hand": _hand,
}

# Kinds that can wear parts; characters have one of these kinds.
WEARERS: Final[tuple[str, ...]] = ("cat", "rabbit", "bird", "robot")
EYED: Final[tuple[str, ...]] = (*WEARERS, "fish", "mushroom")


def draw_face(pen: Pen, anatomy: Anatomy, iris: Rgb, ink: Rgb) -> None:
    """Draw eyes and smile. Call this after drawing the pattern, which would cover the face."""
    small = 0.6 if abs(anatomy.eyes[0][0]) < 0.2 else 1.0
    for x, y in anatomy.eyes:
        pen.circle((x, y), 0.21 * small, (255, 255, 255))
        pen.circle((x, y), 0.125 * small, iris)
    if anatomy.smile:
        x, y = anatomy.smile
        pen.arc((x - 0.2, y - 0.2, x + 0.2, y + 0.12), 20, 160, 0.08, darker(ink, 0.35))
