"""A pen that draws in a figure's own units: the origin at its middle, one unit its half height."""

from collections.abc import Sequence

from PIL import Image, ImageChops, ImageDraw

from .palette import Rgb

Point = tuple[float, float]
Box = tuple[float, float, float, float]


class Pen:
    """Draws on an image and remembers which pixels are the figure's body, where patterns go."""

    def __init__(self, image: Image.Image, centre: Point, unit: float, lean: float = 0.0):
        self.image = image
        self.centre = centre
        self.unit = unit
        self.lean = lean  # sideways shift of a point one unit above the middle, in units
        self.mask = Image.new("L", image.size, 0)

    def at(self, point: Point) -> Point:
        """Pixel position of a point given in figure units (x right, y down)."""
        x, y = point
        return self.centre[0] + (x - self.lean * y) * self.unit, self.centre[1] + y * self.unit

    def polygon(self, points: Sequence[Point], fill: Rgb, body: bool = False) -> None:
        placed = [self.at(point) for point in points]
        ImageDraw.Draw(self.image).polygon(placed, fill=fill)
        if body:
            ImageDraw.Draw(self.mask).polygon(placed, fill=255)

    def ellipse(self, box: Box, fill: Rgb, body: bool = False) -> None:
        placed = self._box(box)
        ImageDraw.Draw(self.image).ellipse(placed, fill=fill)
        if body:
            ImageDraw.Draw(self.mask).ellipse(placed, fill=255)

    def circle(self, centre: Point, radius: float, fill: Rgb, body: bool = False) -> None:
        x, y = centre
        self.ellipse((x - radius, y - radius, x + radius, y + radius), fill, body)

    def slab(self, box: Box, fill: Rgb, body: bool = False, corner: float = 0.12) -> None:
        """A box with round corners."""
        placed, radius = self._box(box), corner * self.unit
        ImageDraw.Draw(self.image).rounded_rectangle(placed, radius, fill=fill)
        if body:
            ImageDraw.Draw(self.mask).rounded_rectangle(placed, radius, fill=255)

    def slice(self, box: Box, start: float, end: float, fill: Rgb, body: bool = False) -> None:
        """A slice of an ellipse, angles in degrees, clockwise from three o'clock."""
        placed = self._box(box)
        ImageDraw.Draw(self.image).pieslice(placed, start, end, fill=fill)
        if body:
            ImageDraw.Draw(self.mask).pieslice(placed, start, end, fill=255)

    def stroke(self, points: Sequence[Point], width: float, fill: Rgb, body: bool = False) -> None:
        """A thick line with round ends and joints."""
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
        pixels = max(2, round(width * self.unit))
        ImageDraw.Draw(self.image).arc(self._box(box), start, end, fill=fill, width=pixels)

    def paste_on_body(self, colour: Rgb, where: Image.Image) -> None:
        """Colour the pixels of the body that `where` (mode L) marks."""
        self.image.paste(
            Image.new("RGB", self.image.size, colour), (0, 0), ImageChops.multiply(where, self.mask)
        )

    def _box(self, box: Box) -> Box:
        middle = (box[1] + box[3]) / 2  # a leaning ellipse shifts whole, it does not shear
        shift = self.lean * middle * self.unit
        cx, cy = self.centre[0] - shift, self.centre[1]
        return (
            cx + box[0] * self.unit,
            cy + box[1] * self.unit,
            cx + box[2] * self.unit,
            cy + box[3] * self.unit,
        )
