"""A folder of pictures as a training set: which files, in which order, with which digest."""

from dataclasses import dataclass
from pathlib import Path

from atelier.errors import DatasetError
from atelier.files import digest_json, sha256_file
from pipelines.dataset.captions import METADATA, read_captions
from pipelines.dataset.pictures import ENDINGS


@dataclass(frozen=True)
class Picture:
    """One file to learn from; `caption` is empty where it has none."""

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
        """Over the sorted contents and their captions: names of files do not matter."""
        return digest_json(sorted([picture.digest, picture.caption] for picture in self.pictures))


def open_folder(path: Path, captions: str | None = None) -> PictureFolder:
    """The pictures in `path` and below; DatasetError where there are none.

    `captions` names the column of `metadata.jsonl` to read; None leaves every caption empty.
    The files are not decoded here: see `open_picture`.
    """
    files = picture_files(path)
    if not files:
        raise DatasetError(
            f"{path}: no pictures; put some there (PNG, JPEG or WebP, 5 to 20 for one subject)"
        )
    found = read_captions(path, captions) if captions else {}
    return PictureFolder(
        path,
        tuple(
            Picture(file, sha256_file(file), found.get(file.relative_to(path).as_posix(), ""))
            for file in files
        ),
    )


def picture_files(path: Path) -> list[Path]:
    """What stands for pictures in a folder: everything that has a picture's ending."""
    if not path.exists():
        raise DatasetError(f"{path}: no such folder; check the recipe's `dataset.path`")
    if not path.is_dir():
        raise DatasetError(f"{path}: is a file; `dataset.path` is the folder of pictures")
    return [file for file in _visible(path) if file.suffix.lower() in ENDINGS]


def other_files(path: Path) -> list[Path]:
    """What lies in a folder of pictures and is neither a picture nor its metadata."""
    others = [file for file in _visible(path) if file.suffix.lower() not in ENDINGS]
    return [file for file in others if file.name != METADATA]


def _visible(path: Path) -> list[Path]:
    """Files by name, without hidden ones (`.DS_Store`, `._x.jpg`) and hidden folders."""
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
