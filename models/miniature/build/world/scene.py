"""Draws a picture of a subject in a place, with edges that are soft enough for a small VAE."""

from dataclasses import dataclass
from random import Random
from typing import Final

from PIL import Image, ImageDraw, ImageFilter

from .figures import FIGURES, draw_face
from .palette import COLOURS, Rgb
from .parts import BEHIND, COMMON_WEAR, HEADGEAR, HELD, METALS, NECKWEAR
from .pen import Pen
from .places import PLACES, paint_place
from .subject import Character, common_subject

SIZE: Final[int] = 128
_OVERSAMPLE: Final[int] = 3
_SOFTNESS: Final[float] = 0.7  # radius of the Gaussian blur, in pixels of a 128-pixel picture


@dataclass(frozen=True)
class Scene:
    """The subject and place of a picture. The pose is not included; `draw` chooses it at random."""

    subject: Character
    place: str

    @property
    def combination(self) -> tuple[str, str, str]:
        """Kind, colour and place: the aspects that the quality figures measure."""
        return self.subject.kind, self.subject.colour, self.place


def common_scene(rng: Random) -> Scene:
    """Return a random scene for the pictures of the base model."""
    return Scene(common_subject(rng), rng.choice(list(PLACES)))


def draw(subject: Character, place: str, rng: Random, size: int = SIZE) -> Image.Image:
    """Draw a subject in a place as an RGB image of `size` pixels per side.

    `rng` determines the pose and the variations of the place.
    """
    side = size * _OVERSAMPLE
    image = Image.new("RGB", (side, side))
    paint_place(image, place, rng)
    centre = rng.uniform(0.44, 0.56) * side, rng.uniform(0.52, 0.56) * side
    pen = Pen(image, centre, rng.uniform(0.33, 0.375) * side, lean=rng.uniform(-0.06, 0.06))
    _draw_subject(pen, subject)
    soft = image.filter(ImageFilter.GaussianBlur(_SOFTNESS * side / SIZE))
    return soft.reduce(_OVERSAMPLE)


def _draw_subject(pen: Pen, subject: Character) -> None:
    body, accent = COLOURS[subject.colour], COLOURS[subject.accent]
    figure = FIGURES[subject.kind]
    if subject.cape:
        scratch = Pen(pen.image.copy(), pen.centre, pen.unit, pen.lean)
        BEHIND["cape"](pen, figure(scratch, body, accent, subject.gesture), COLOURS[subject.cape])
    anatomy = figure(pen, body, accent, subject.gesture)
    _draw_pattern(pen, subject.pattern, accent)
    if anatomy.eyes:
        draw_face(pen, anatomy, COLOURS[subject.eyes], body)
    for table, part, colour in (
        (NECKWEAR, subject.neckwear, subject.neckwear_colour),
        (HEADGEAR, subject.headgear, subject.headgear_colour),
        (HELD, subject.held, subject.held_colour),
    ):
        if part:
            table[part](pen, anatomy, part_colour(part, colour))


def part_colour(part: str, colour: str | None) -> Rgb:
    """Return the colour of a worn or held part; without a name, that of common subjects."""
    if colour is None:
        return COMMON_WEAR[part]
    return METALS[colour] if colour in METALS else COLOURS[colour]


def _draw_pattern(pen: Pen, pattern: str, accent: Rgb) -> None:
    box = pen.mask.getbbox()
    if pattern == "plain" or box is None:
        return
    marks = Image.new("L", pen.image.size, 0)
    draw_marks = ImageDraw.Draw(marks)
    left, top, right, bottom = box
    if pattern == "striped":
        step = 0.44 * pen.unit
        y = top + step * 0.45
        while y < bottom:
            draw_marks.rectangle((left, y, right, y + step * 0.36), fill=255)
            y += step
    else:
        step, radius = 0.5 * pen.unit, 0.13 * pen.unit
        for row in range(int((bottom - top) / step) + 1):
            x, y = left + step * (0.3 + 0.5 * (row % 2)), top + step * (row + 0.4)
            while x < right:
                draw_marks.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
                x += step
    pen.paste_on_body(accent, marks)
