"""Draws in figure units: the origin is the middle of the figure, a unit is half of its height."""

from collections.abc import Sequence

from PIL import Image, ImageChops, ImageDraw

from .palette import Rgb

Point = tuple[float, float]
Box = tuple[float, float, float, float]


class Pen:
    """Draws on an image in figure units, and marks the pixels of the figure's body in `mask`.

    Shapes with `body=True` belong to the body, which patterns are drawn on. A box is (left, top,
    right, bottom).
    """

    def __init__(self, image: Image.Image, centre: Point, unit: float, lean: float = 0.0):
        self.image = image
        self.centre = centre
        self.unit = unit
        self.lean = lean  # sideways shift of a point one unit above the middle, in units
        self.mask = Image.new("L", image.size, 0)

    def at(self, point: Point) -> Point:
        """Return the pixel position of a point in figure units (x right, y down)."""
        x, y = point
        return self.centre[0] + (x - self.lean * y) * self.unit, self.centre[1] + y * self.unit

    def polygon(self, points: Sequence[Point], fill: Rgb, body: bool = False) -> None:
        """Draw a filled polygon."""
        placed = [self.at(point) for point in points]
        ImageDraw.Draw(self.image).polygon(placed, fill=fill)
        if body:
            ImageDraw.Draw(self.mask).polygon(placed, fill=255)

    def ellipse(self, box: Box, fill: Rgb, body: bool = False) -> None:
        """Draw a filled ellipse."""
        placed = self._box(box)
        ImageDraw.Draw(self.image).ellipse(placed, fill=fill)
        if body:
            ImageDraw.Draw(self.mask).ellipse(placed, fill=255)

    def circle(self, centre: Point, radius: float, fill: Rgb, body: bool = False) -> None:
        """Draw a filled circle."""
        x, y = centre
        self.ellipse((x - radius, y - radius, x + radius, y + radius), fill, body)

    def slab(self, box: Box, fill: Rgb, body: bool = False, corner: float = 0.12) -> None:
        """Draw a filled box with round corners of radius `corner`."""
        placed, radius = self._box(box), corner * self.unit
        ImageDraw.Draw(self.image).rounded_rectangle(placed, radius, fill=fill)
        if body:
            ImageDraw.Draw(self.mask).rounded_rectangle(placed, radius, fill=255)

    def slice(self, box: Box, start: float, end: float, fill: Rgb, body: bool = False) -> None:
        """Draw a slice of an ellipse; angles are in degrees, clockwise from three o'clock."""
        placed = self._box(box)
        ImageDraw.Draw(self.image).pieslice(placed, start, end, fill=fill)
        if body:
            ImageDraw.Draw(self.mask).pieslice(placed, start, end, fill=255)

    def stroke(self, points: Sequence[Point], width: float, fill: Rgb, body: bool = False) -> None:
        """Draw a line of `width` with round ends and joints."""
        placed, pixels = [self.at(point) for point in points], max(2, round(width * self.unit))
        surfaces: list[tuple[Image.Image, Rgb | int]] = [(self.image, fill)]
        if body:
            surfaces.append((self.mask, 255))
        for surface, ink in surfaces:
            draw = ImageDraw.Draw(surface)
            draw.line(placed, fill=ink, width=pixels, joint="curve")
            for x, y in placed:
                half = pixels / 2
                draw.ellipse((x - half, y - half, x + half, y + half), fill=ink)

    def arc(self, box: Box, start: float, end: float, width: float, fill: Rgb) -> None:
        """Draw an arc of an ellipse; angles are as in `slice`."""
        pixels = max(2, round(width * self.unit))
        ImageDraw.Draw(self.image).arc(self._box(box), start, end, fill=fill, width=pixels)

    def paste_on_body(self, colour: Rgb, where: Image.Image) -> None:
        """Colour the pixels of the body that the mask `where` (mode L) selects."""
        self.image.paste(
            Image.new("RGB", self.image.size, colour), (0, 0), ImageChops.multiply(where, self.mask)
        )

    def _box(self, box: Box) -> Box:
        middle = (box[1] + box[3]) / 2  # a leaning ellipse is shifted, not sheared
        shift = self.lean * middle * self.unit
        cx, cy = self.centre[0] - shift, self.centre[1]
        return (
            cx + box[0] * self.unit,
            cy + box[1] * self.unit,
            cx + box[2] * self.unit,
            cy + box[3] * self.unit,
        )
