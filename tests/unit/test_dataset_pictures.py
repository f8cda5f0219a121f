"""Every kind of picture file that people bring: handled rightly, or refused with the fix."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from atelier.errors import DatasetError
from pipelines.dataset.pictures import open_picture


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([columns * 6, rows * 8, np.full_like(rows, 90)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def test_a_plain_picture_keeps_its_pixels(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(open_picture(tmp_path / "a.png")), np.asarray(gradient()))


def test_the_content_says_what_it_is_not_the_name(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.jpg", format="PNG")
    assert open_picture(tmp_path / "a.jpg").size == (40, 30)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show rotated by 90 degrees clockwise
    gradient().save(tmp_path / "a.png", exif=exif)
    upright = open_picture(tmp_path / "a.png")
    assert upright.size == (30, 40)
    expected = gradient().transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(np.asarray(upright), np.asarray(expected))


def test_transparent_parts_become_white(tmp_path: Path) -> None:
    image = gradient().convert("RGBA")
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 20, 30))
    image.putalpha(alpha)
    image.save(tmp_path / "a.png")
    pixels = np.asarray(open_picture(tmp_path / "a.png"))
    assert (pixels[:, :20] == 255).all()
    assert np.array_equal(pixels[:, 20:], np.asarray(gradient())[:, 20:])


def test_a_palette_with_a_transparent_colour_becomes_white(tmp_path: Path) -> None:
    image = Image.new("P", (32, 32), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(0, (0, 0, 32, 16))
    image.save(tmp_path / "a.png", transparency=0)
    pixels = np.asarray(open_picture(tmp_path / "a.png"))
    assert (pixels[:16] == 255).all()
    assert (pixels[16:] == (200, 100, 50)).all()


def test_sixteen_bits_are_scaled_not_cut_off(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    pixels = np.asarray(open_picture(tmp_path / "a.png"))
    assert pixels.min() == 0
    assert pixels.max() == 255
    assert abs(int(pixels[16, 0, 0]) - 128) <= 1


def test_cmyk_is_converted(tmp_path: Path) -> None:
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = np.asarray(open_picture(tmp_path / "a.jpg")).reshape(-1, 3).mean(axis=0)
    assert red > 200
    assert green < 60
    assert blue < 60


def test_a_colour_profile_is_honoured(tmp_path: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gradient().save(tmp_path / "srgb.png", icc_profile=srgb)
    assert (
        np.abs(
            np.asarray(open_picture(tmp_path / "srgb.png")).astype(int) - np.asarray(gradient())
        ).max()
        <= 2
    )
    gradient().save(tmp_path / "odd.png", icc_profile=lab)  # does not fit RGB pixels: left as is
    assert np.array_equal(np.asarray(open_picture(tmp_path / "odd.png")), np.asarray(gradient()))


@pytest.mark.parametrize("ending", ["png", "gif", "webp", "tiff"])
def test_an_animation_is_refused(tmp_path: Path, ending: str) -> None:
    frames = [gradient(), gradient().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
    with pytest.raises(DatasetError, match=rf"a\.{ending}: contains 2 pictures.*save the picture"):
        open_picture(tmp_path / f"a.{ending}")


def truncated(tmp_path: Path, ending: str) -> Path:
    file = tmp_path / f"a.{ending}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:-1500])
    return file


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_half_a_file_is_refused(tmp_path: Path, ending: str) -> None:
    file = truncated(tmp_path, ending)
    with pytest.raises(
        DatasetError, match=rf"a\.{ending}: damaged or truncated.*copy the picture again"
    ):
        open_picture(file)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_text("<html>not found</html>")
    with pytest.raises(DatasetError, match=r"a\.png: not a picture"):
        open_picture(file)
    file.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"a\.png: an empty file"):
        open_picture(file)
    with pytest.raises(DatasetError, match=r"b\.png: cannot be read"):
        open_picture(tmp_path / "b.png")


def test_a_single_pixel_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "a.png")
    with pytest.raises(DatasetError, match=r"a\.png: 1x1 pixels"):
        open_picture(tmp_path / "a.png")


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(DatasetError, match=r"a\.png: more than"):
        open_picture(tmp_path / "a.png")


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((32, 32), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(DatasetError, match=r"a\.tiff: floating-point"):
        open_picture(tmp_path / "a.tiff")


def test_a_phone_picture_with_a_second_view_opens(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    gradient().save(buffer, format="MPO", save_all=True, append_images=[gradient()])
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    assert open_picture(tmp_path / "a.jpg").size == (40, 30)
