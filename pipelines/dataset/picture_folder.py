"""A folder of pictures as a training set: its files, their order and their digest."""

from dataclasses import dataclass
from pathlib import Path

from atelier.errors import DatasetError
from atelier.files import digest_json, sha256_file
from pipelines.dataset.captions import METADATA, read_captions
from pipelines.dataset.pictures import ENDINGS


@dataclass(frozen=True)
class Picture:
    """A picture file; `caption` is empty if the picture has no caption."""

    path: Path
    digest: str
    caption: str = ""


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of a folder, sorted by name."""

    path: Path
    pictures: tuple[Picture, ...]

    @property
    def digest(self) -> str:
        """The digest of the sorted contents and their captions; file names have no effect."""
        return digest_json(sorted([picture.digest, picture.caption] for picture in self.pictures))


def open_folder(path: Path, captions: str | None = None) -> PictureFolder:
    """List the pictures in `path` and its subfolders, with digests and captions.

    `captions` is the column of `metadata.jsonl` to read; None leaves every caption empty. The files
    are not decoded; see `open_picture`. Raises DatasetError if there are no pictures, or if
    `metadata.jsonl` is invalid.
    """
    files = picture_files(path)
    if not files:
        raise DatasetError(
            f"{path}: no pictures; add some (PNG, JPEG or WebP, 5 to 20 for one subject)"
        )
    texts = read_captions(path, captions) if captions else {}
    return PictureFolder(
        path,
        tuple(
            Picture(file, sha256_file(file), texts.get(file.relative_to(path).as_posix(), ""))
            for file in files
        ),
    )


def picture_files(path: Path) -> list[Path]:
    """Return the files in `path` and below that have the extension of a picture, sorted.

    Raises DatasetError if `path` is not a folder.
    """
    if not path.exists():
        raise DatasetError(f"{path}: no such folder; correct `dataset.path` in the recipe")
    if not path.is_dir():
        raise DatasetError(f"{path}: is a file; set `dataset.path` to the folder of pictures")
    return [file for file in _visible(path) if file.suffix.lower() in ENDINGS]


def other_files(path: Path) -> list[Path]:
    """Return the files in `path` and below that are neither pictures nor `metadata.jsonl`."""
    others = [file for file in _visible(path) if file.suffix.lower() not in ENDINGS]
    return [file for file in others if file.name != METADATA]


def _visible(path: Path) -> list[Path]:
    """Return the sorted files, without hidden ones (`.DS_Store`, `._x.jpg`) and hidden folders."""
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
