"""Folders, captions, crops and the remarks about them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from atelier.errors import DatasetError
from pipelines.dataset import lint, open_folder, square, whole
from pipelines.dataset.captions import read_captions


def picture(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.NEAREST)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(5):
        picture(index).save(tmp_path / f"{index}.png")
    return tmp_path


def captioned(folder: Path, *lines: object) -> None:
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    (folder / "metadata.jsonl").write_text(text)


def test_pictures_come_in_the_order_of_their_names(folder: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"x")
    names = [one.path.name for one in open_folder(folder).pictures]
    assert names == ["0.png", "1.png", "2.png", "3.png", "4.png"]


def test_the_digest_follows_contents_and_captions_alone(folder: Path) -> None:
    before = open_folder(folder).digest
    (folder / "0.png").rename(folder / "z.png")
    assert open_folder(folder).digest == before
    captioned(folder, {"file_name": "1.png", "text": "on the beach"})
    assert open_folder(folder).digest == before
    assert open_folder(folder, "text").digest != before
    picture(9).save(folder / "z.png")
    assert open_folder(folder).digest != before


def test_captions_are_read_by_column(folder: Path) -> None:
    captioned(folder, {"file_name": "1.png", "text": " on the beach "}, {"file_name": "2.png"})
    assert read_captions(folder, "text") == {"1.png": "on the beach", "2.png": ""}
    assert open_folder(folder, "text").pictures[1].caption == "on the beach"
    assert open_folder(folder).pictures[1].caption == ""


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("{broken\n",), r"metadata.jsonl:1: not JSON"),
        (({"file_name": "1.png", "text": "x"}, "[1]\n"), r":2: not an object"),
        (({"text": "x"},), r":1: no file_name"),
        (({"file_name": "11.png", "text": "x"},), r":1: no picture 11.png.*did you mean 1.png"),
        (({"file_name": "../x.png", "text": "x"},), r":1: \.\./x\.png is outside"),
        (({"file_name": "1.png", "txt": "x"},), r"no line has the column 'text' .*mean txt"),
        (({"file_name": "1.png", "text": 3},), r":1: text is 3"),
        (
            ({"file_name": "1.png", "text": "x"}, {"file_name": "1.png", "text": "y"}),
            r":2: 1.png has an earlier line",
        ),
    ],
)
def test_a_wrong_caption_file_names_its_line(folder: Path, lines: tuple, told: str) -> None:
    captioned(folder, *lines)
    with pytest.raises(DatasetError, match=told):
        read_captions(folder, "text")


def test_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        open_folder(tmp_path / "images")
    with pytest.raises(DatasetError, match="no pictures"):
        open_folder(tmp_path)
    (tmp_path / "a").write_text("")
    with pytest.raises(DatasetError, match="is a file"):
        open_folder(tmp_path / "a")


def test_a_square_tells_sdxl_where_it_was_cut() -> None:
    fitted = square(picture(0, (200, 100)), 64)
    assert fitted.pixels.shape == (64, 64, 3)
    assert fitted.original_size == (100, 200)
    assert fitted.crop_top_left == (0, 32)
    assert fitted.time_ids == (100, 200, 0, 32, 64, 64)


def test_a_square_lies_where_it_is_asked_to() -> None:
    image = Image.new("RGB", (64, 128), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 64, 32))
    assert (square(image, 64).pixels == (0, 0, 255)).all()
    assert (square(image, 64, (0.0, 0.0)).pixels[:32] == (255, 0, 0)).all()
    assert square(image, 64, (1.0, 1.0)).crop_top_left == (64, 0)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((300, 300), (128, 128)),
        ((300, 200), (160, 96)),
        ((200, 300), (96, 160)),
        ((900, 9), (1280, 32)),
    ],
)
def test_a_whole_picture_keeps_its_proportions(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    height, width, _ = whole(picture(0, size), 128).pixels.shape
    assert (width, height) == expected


def test_a_picture_of_the_right_size_is_untouched() -> None:
    image = picture(3, (64, 64))
    assert np.array_equal(square(image, 64).pixels, np.asarray(image))
    assert np.array_equal(whole(image, 64).pixels, np.asarray(image))


def test_good_pictures_get_no_remark(folder: Path) -> None:
    assert lint(folder, resolution=64) == []


def test_lint_finds_what_is_wrong(folder: Path) -> None:
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:60])
    (folder / "copy.png").write_bytes((folder / "1.png").read_bytes())
    picture(2).save(folder / "again.jpg", quality=80)
    picture(11, (300, 100)).save(folder / "wide.png")
    Image.new("RGB", (64, 64), (3, 3, 3)).save(folder / "night.png")
    picture(12).filter(ImageFilter.GaussianBlur(20)).save(folder / "blur.png")
    glass = picture(13).convert("RGBA")
    glass.putalpha(100)
    glass.save(folder / "glass.png")
    (folder / "notes.txt").write_text("x")
    found = {(one.severity, one.file.name): f"{one.text}; {one.advice}" for one in lint(folder)}
    assert "damaged or truncated" in found["error", "broken.png"]
    assert "same file as 1.png" in found["warning", "copy.png"]
    assert "looks like 2.png" in found["warning", "again.jpg"]
    assert "loses 67%" in found["warning", "wide.png"]
    assert ("warning", "night.png") in found
    assert "blurred" in found["warning", "blur.png"]
    assert "become white" in found["warning", "glass.png"]
    assert ("info", "notes.txt") in found
    assert next(iter(lint(folder))).severity == "error"


def test_lint_says_what_a_folder_lacks(folder: Path, tmp_path: Path) -> None:
    captioned(folder, {"file_name": "1.png", "text": "x"})
    silent = [one for one in lint(folder, captions="text") if "no caption" in one.text]
    assert [one.file.name for one in silent] == ["0.png", "2.png", "3.png", "4.png"]
    small = lint(folder, resolution=128)
    assert {one.severity for one in small} == {"warning"}
    assert all("smaller than the resolution" in one.text for one in small)
    missing = lint(tmp_path / "nowhere")
    assert [one.severity for one in missing] == ["error"]
    assert "no such folder" in str(missing[0])
