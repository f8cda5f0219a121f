"""Any picture file that people have, as upright 8-bit RGB, or an error that names the fix.

What a file is comes from its content, never from its name. What cannot be shown as one RGB picture
without guessing (an animation, half a file, floating-point pixels) is refused.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from atelier.errors import DatasetError

SMALLEST_SIDE = 16  # pixels; less holds nothing to learn from
MOST_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs
ENDINGS = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".avif"}
)
_STILL_OF_MANY = frozenset({"MPO"})  # phones keep a second view behind the picture itself
_WHITE = (255, 255, 255, 255)


def open_picture(path: Path) -> Image.Image:
    """The picture in `path`, RGB, turned as its EXIF says; DatasetError where that cannot be.

    Transparent parts lie on white. Colours are converted to sRGB where the file has a profile.
    """
    image = _decoded(path)
    _check_still(image, path)
    profile = image.info.get("icc_profile")
    upright = ImageOps.exif_transpose(image)
    if min(upright.size) < SMALLEST_SIDE:
        width, height = upright.size
        raise DatasetError(
            f"{path}: {width}x{height} pixels hold nothing to learn from; remove it, or find a "
            "larger original"
        )
    return _rgb(upright, profile, path)


def has_transparency(image: Image.Image) -> bool:
    """Whether any pixel of the picture as stored lets something shine through."""
    if not image.has_transparency_data:
        return False
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    return bool(alpha.min() < 255)


def _decoded(path: Path) -> Image.Image:
    """The stored pixels, all of them read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}); check that it is there and readable"
        ) from error
    if not data:
        raise DatasetError(f"{path}: an empty file; copy the picture again or remove it")
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except UnidentifiedImageError as error:
        raise DatasetError(
            f"{path}: not a picture that can be read; save it as PNG or JPEG, or remove it"
        ) from error
    except Image.DecompressionBombError as error:
        raise DatasetError(
            f"{path}: more than {MOST_PIXELS} pixels; save it smaller, training needs far less"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DatasetError(
            f"{path}: damaged or cut short ({error}); copy it again from its source, or remove it"
        ) from error
    return image


def _check_still(image: Image.Image, path: Path) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in _STILL_OF_MANY:
        raise DatasetError(
            f"{path}: holds {frames} pictures (an animation or several pages); save the one to "
            "learn from as PNG"
        )


def _rgb(image: Image.Image, profile: bytes | None, path: Path) -> Image.Image:
    """8-bit RGB, whatever was stored."""
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
    """16-bit grey scaled to 8 bits; Pillow's own conversion would cut it off at 255."""
    if image.mode == "F":
        raise DatasetError(
            f"{path}: floating-point pixels, whose range cannot be known; save it as 8-bit PNG"
        )
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise DatasetError(f"{path}: 32-bit pixels; save it as 8-bit PNG")
    return Image.fromarray(np.round(values / 257).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Colours as the profile means them; None where the profile is unusable, as browsers do."""
    if image.mode not in ("RGB", "CMYK", "L", "LAB"):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
