"""Separates a picture into the subject without its background, and the background alone.

An image encoder sees the whole picture: a subject in front of a familiar background scores higher
than it should, and a background that the adapter has learnt raises the score. References and
generated pictures are separated in the same way, so that the separation itself makes no difference.
"""

from typing import Final

import numpy as np
from PIL import Image, ImageFilter

GREY: Final = (124, 116, 104)  # the mean colour of ImageNet: 0 to most image encoders
SIDE: Final = 448  # pixels; larger pictures are reduced, as the encoders do anyway
LEAST: Final = 0.01  # a smaller mask or background is none, as a fraction of the picture
MARGIN: Final = 0.05  # around the subject, as a fraction of the side of its box
BORDER: Final = 9  # pixels of SIDE: the edge of the subject does not belong to the background


def subject_only(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """Return the subject's square crop, with its background in GREY.

    `mask` is [height, width], True on the subject. Without a subject, the picture is returned.
    """
    if mask.mean() < LEAST:
        return image
    small, shape = _reduced(image, mask)
    box = _square(shape)
    if box is None:
        return image
    alone = Image.composite(small, Image.new("RGB", small.size, GREY), shape)
    crop = Image.new("RGB", (box[2] - box[0], box[3] - box[1]), GREY)
    crop.paste(alone, (-box[0], -box[1]))
    return crop


def background_only(image: Image.Image, mask: np.ndarray) -> Image.Image | None:
    """Return the picture with the subject in GREY, None if nothing else is seen.

    `mask` is [height, width], True on the subject.
    """
    small, shape = _reduced(image, mask)
    wide = shape.filter(ImageFilter.MaxFilter(BORDER))
    if np.asarray(wide).mean() / 255 > 1 - LEAST:
        return None
    return Image.composite(Image.new("RGB", small.size, GREY), small, wide)


def _reduced(image: Image.Image, mask: np.ndarray) -> tuple[Image.Image, Image.Image]:
    """Return the picture and its mask (0 or 255) with sides of at most SIDE."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    shape = Image.fromarray(mask.astype(np.uint8) * 255).resize(small.size, Image.Resampling.BOX)
    return small, shape.point(lambda level: 255 if level >= 128 else 0)


def _square(shape: Image.Image) -> tuple[int, int, int, int] | None:
    """Return a square around the mask with a margin; it can extend beyond the picture."""
    box = shape.getbbox()
    if box is None:
        return None
    left, top, right, bottom = box
    side = round(max(right - left, bottom - top) * (1 + 2 * MARGIN))
    x, y = (left + right - side) // 2, (top + bottom - side) // 2
    return x, y, x + side, y + side
