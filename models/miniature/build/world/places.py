"""Draws the eight places: each has a fixed layout with small random variations."""

from collections.abc import Callable
from random import Random
from typing import Final

from PIL import Image, ImageDraw

from .palette import Rgb

PHRASES: Final[dict[str, str]] = {
    "beach": "on the beach",
    "forest": "in the forest",
    "city": "in the city at night",
    "snow": "in the snow",
    "desert": "in the desert",
    "room": "in a room",
    "sea": "under the sea",
    "space": "in space",
}


class _Backdrop:
    """Draws on an image, with coordinates in fractions of its side."""

    def __init__(self, image: Image.Image, rng: Random):
        self.side = image.size[0]
        self.draw = ImageDraw.Draw(image)
        self.rng = rng

    def band(self, top: float, bottom: float, fill: Rgb) -> None:
        """Draw a horizontal band over the full width."""
        self.draw.rectangle((0, top * self.side, self.side, bottom * self.side), fill=fill)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Rgb) -> None:
        """Draw a filled rectangle."""
        side = self.side
        self.draw.rectangle((x0 * side, y0 * side, x1 * side, y1 * side), fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: Rgb, flat: float = 1.0) -> None:
        """Draw a filled ellipse; `flat` is the ratio of its height to its width."""
        side = self.side
        box = (x - radius, y - radius * flat, x + radius, y + radius * flat)
        self.draw.ellipse(tuple(value * side for value in box), fill=fill)

    def polygon(self, *points: tuple[float, float], fill: Rgb) -> None:
        """Draw a filled polygon."""
        self.draw.polygon([(x * self.side, y * self.side) for x, y in points], fill=fill)

    def play(self, middle: float, amount: float = 0.025) -> float:
        """Return a random number within `amount` of `middle`."""
        return middle + self.rng.uniform(-amount, amount)


def _beach(on: _Backdrop) -> None:
    horizon = on.play(0.40)
    on.band(0, horizon, (164, 218, 246))
    on.band(horizon, 0.64, (44, 140, 196))
    on.band(0.64, 1, (240, 218, 160))
    on.disc(on.play(0.84), on.play(0.15), 0.11, (255, 226, 90))


def _forest(on: _Backdrop) -> None:
    on.band(0, 0.72, (186, 226, 190))
    for x in (0.10, 0.37, 0.63, 0.90):
        x, top = on.play(x), on.play(0.08, 0.05)
        on.box(x - 0.03, 0.55, x + 0.03, 0.75, (112, 76, 48))
        on.polygon((x - 0.15, 0.60), (x + 0.15, 0.60), (x, top), fill=(30, 104, 60))
    on.band(0.72, 1, (104, 160, 72))


def _city(on: _Backdrop) -> None:
    on.band(0, 1, (58, 52, 120))
    on.disc(on.play(0.18), on.play(0.15), 0.09, (250, 240, 190))
    for x, height in ((0.0, 0.60), (0.35, 0.80), (0.70, 0.70)):
        top = 1 - on.play(height, 0.04)
        on.box(x, top, x + 0.30, 0.88, (92, 88, 168))
        for row in range(3):
            for column in (0.045, 0.175):
                y = top + 0.07 + row * 0.18
                on.box(x + column, y, x + column + 0.08, y + 0.09, (255, 220, 110))
    on.band(0.84, 1, (84, 80, 96))


def _snow(on: _Backdrop) -> None:
    on.band(0, 0.62, (176, 200, 228))
    peak = on.play(0.28)
    on.polygon((peak - 0.34, 0.66), (peak + 0.34, 0.66), (peak, 0.14), fill=(128, 150, 190))
    on.polygon((peak - 0.13, 0.34), (peak + 0.13, 0.34), (peak, 0.14), fill=(250, 252, 255))
    on.disc(0.82, 0.76, 0.42, (206, 222, 242), flat=0.55)
    on.band(0.66, 1, (228, 238, 250))


def _desert(on: _Backdrop) -> None:
    on.band(0, 1, (252, 206, 150))
    on.disc(on.play(0.2), on.play(0.16), 0.11, (255, 246, 206))
    crest = on.play(0.5)
    on.polygon((0, 0.7), (0.4, crest), (0.8, 0.7), (1, 0.56), (1, 1), (0, 1), fill=(214, 150, 90))
    x = on.play(0.88, 0.015)
    on.box(x - 0.035, 0.30, x + 0.035, 0.74, (70, 140, 90))
    on.box(x - 0.10, 0.44, x - 0.035, 0.49, (70, 140, 90))
    on.box(x - 0.10, 0.36, x - 0.06, 0.49, (70, 140, 90))


def _room(on: _Backdrop) -> None:
    floor = on.play(0.72)
    on.band(0, floor, (232, 216, 190))
    on.band(floor, 1, (158, 108, 72))
    x, y = on.play(0.19), on.play(0.24)
    on.box(x - 0.15, y - 0.17, x + 0.15, y + 0.17, (250, 250, 248))
    on.box(x - 0.12, y - 0.14, x + 0.12, y + 0.14, (150, 208, 242))
    on.box(0.74, 0.12, 0.96, 0.32, (170, 90, 80))
    on.box(0.77, 0.15, 0.93, 0.29, (240, 222, 150))


def _sea(on: _Backdrop) -> None:
    on.band(0, 1, (40, 152, 172))
    on.band(0, 0.2, (90, 190, 204))
    on.disc(0.5, 1.04, 0.75, (206, 190, 140), flat=0.27)
    for x in (0.1, 0.9):
        x = on.play(x)
        on.box(x - 0.035, on.play(0.42, 0.05), x + 0.035, 0.86, (28, 110, 84))
    for x, y, radius in ((0.16, 0.24, 0.05), (0.28, 0.10, 0.035), (0.86, 0.22, 0.045)):
        on.disc(on.play(x), on.play(y), radius, (186, 230, 238))


def _space(on: _Backdrop) -> None:
    on.band(0, 1, (26, 24, 66))
    on.disc(0.5, 1.12, 0.8, (128, 122, 150), flat=0.36)
    x, y = on.play(0.82), on.play(0.2)
    on.disc(x, y, 0.17, (236, 200, 130), flat=0.28)
    on.disc(x, y, 0.10, (222, 130, 90))
    for x, y in ((0.1, 0.12), (0.34, 0.07), (0.1, 0.5), (0.92, 0.5)):
        on.disc(on.play(x), on.play(y), 0.022, (255, 250, 220))


PLACES: Final[dict[str, Callable[[_Backdrop], None]]] = {
    "beach": _beach,
    "forest": _forest,
    "city": _city,
    "snow": _snow,
    "desert": _desert,
    "room": _room,
    "sea": _sea,
    "space": _space,
}


def paint_place(image: Image.Image, place: str, rng: Random) -> None:
    """Draw a place over the whole picture."""
    PLACES[place](_Backdrop(image, rng))
