"""Read picture files of many formats as upright 8-bit RGB.

The format is detected from the content, not from the file name. A file that does not define exactly
one RGB picture (an animation, a truncated file, floating-point pixels) is refused.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from atelier.errors import DatasetError

SMALLEST_SIDE = 16  # pixels; a smaller picture has too little detail for training
MOST_PIXELS = 178_956_970  # Pillow's limit against decompression bombs
ENDINGS = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".avif"}
)
_STILL_OF_MANY = frozenset({"MPO"})  # phones store a second view after the main picture
_WHITE = (255, 255, 255, 255)


def open_picture(path: Path) -> Image.Image:
    """Read a picture as 8-bit RGB, rotated according to its EXIF data.

    Transparent parts become white. Colours are converted to sRGB if the file has an ICC profile.
    Raises DatasetError if the file cannot be read, or is not exactly one picture of usable size.
    """
    image = _decoded(path)
    _check_still(image, path)
    profile = image.info.get("icc_profile")
    upright = ImageOps.exif_transpose(image)
    if min(upright.size) < SMALLEST_SIDE:
        width, height = upright.size
        raise DatasetError(
            f"{path}: {width}x{height} pixels are too few for training; remove the picture, or use "
            "a larger original"
        )
    return _rgb(upright, profile, path)


def has_transparency(image: Image.Image) -> bool:
    """Return whether any pixel of the picture is not opaque."""
    if not image.has_transparency_data:
        return False
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    return bool(alpha.min() < 255)


def _decoded(path: Path) -> Image.Image:
    """Decode all pixels of a file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}); check that it exists and is readable"
        ) from error
    if not data:
        raise DatasetError(f"{path}: an empty file; copy the picture again, or remove it")
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except UnidentifiedImageError as error:
        raise DatasetError(
            f"{path}: not a picture in a known format; save the picture as PNG or JPEG, or remove "
            "the file"
        ) from error
    except Image.DecompressionBombError as error:
        raise DatasetError(
            f"{path}: more than {MOST_PIXELS} pixels; save the picture smaller, because training "
            "needs far fewer pixels"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DatasetError(
            f"{path}: damaged or truncated ({error}); copy the picture again from its source, or "
            "remove it"
        ) from error
    return image


def _check_still(image: Image.Image, path: Path) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in _STILL_OF_MANY:
        raise DatasetError(
            f"{path}: contains {frames} pictures (an animation or several pages); save the picture "
            "to train on as PNG"
        )


def _rgb(image: Image.Image, profile: bytes | None, path: Path) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = _eight_bit(image, path)
    if has_transparency(image):
        over_white = Image.new("RGBA", image.size, _WHITE)
        return Image.alpha_composite(over_white, image.convert("RGBA")).convert("RGB")
    if profile:
        converted = _to_srgb(image, profile)
        if converted is not None:
            return converted
    return image.convert("RGB")


def _eight_bit(image: Image.Image, path: Path) -> Image.Image:
    """Scale 16-bit grey to 8 bits; Pillow's own conversion would clip the values at 255.

    Raises DatasetError for floating-point and 32-bit pixels.
    """
    if image.mode == "F":
        raise DatasetError(
            f"{path}: floating-point pixels of unknown range; save the picture as 8-bit PNG"
        )
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise DatasetError(f"{path}: 32-bit pixels; save the picture as 8-bit PNG")
    return Image.fromarray(np.round(values / 257).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Convert colours from an ICC profile to sRGB.

    Return None if the profile is unusable. Such a profile is ignored, as in browsers.
    """
    if image.mode not in ("RGB", "CMYK", "L", "LAB"):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
