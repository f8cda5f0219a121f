"""What each picture shows, in Hugging Face's convention: `metadata.jsonl` beside the pictures."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atelier.errors import DatasetError

METADATA = "metadata.jsonl"
FILE_NAME = "file_name"


def read_captions(folder: Path, column: str) -> dict[str, str]:
    """Captions by file name (relative to `folder`), from one column of its `metadata.jsonl`.

    A line may lack the column: that picture has no caption. No file at all means no captions.
    """
    file = folder / METADATA
    if not file.exists():
        return {}
    lines = _lines(file)
    columns = {name for _, line in lines for name in line} - {FILE_NAME}
    if lines and column not in columns:
        raise DatasetError(
            f"{file}: no line has the column {column!r}{_near(column, columns)}; "
            "name it in the recipe's `captions`"
        )
    captions: dict[str, str] = {}
    for number, line in lines:
        name, caption = _entry(file, number, line, column)
        if name in captions:
            raise DatasetError(f"{file}:{number}: {name} has a line already; keep one of them")
        captions[name] = caption
    return captions


def _entry(file: Path, number: int, line: Mapping[str, Any], column: str) -> tuple[str, str]:
    name = line.get(FILE_NAME)
    if not isinstance(name, str):
        raise DatasetError(f"{file}:{number}: no {FILE_NAME}; every line names its picture")
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise DatasetError(f"{file}:{number}: {name} lies outside the folder; move it inside")
    if not (file.parent / path).is_file():
        near = _near(name, {one.name for one in file.parent.iterdir() if one.is_file()})
        raise DatasetError(f"{file}:{number}: no picture {name} in {file.parent}{near}")
    caption = line.get(column)
    if caption is not None and not isinstance(caption, str):
        raise DatasetError(f"{file}:{number}: {column} is {caption!r}; a caption is text")
    return path.as_posix(), (caption or "").strip()


def _lines(file: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DatasetError(
                f"{file}:{number}: not JSON ({error}); every line is one object"
            ) from error
        if not isinstance(value, dict):
            raise DatasetError(f"{file}:{number}: not an object like {{'file_name': 'a.png'}}")
        found.append((number, value))
    return found


def _near(word: str, known: set[str]) -> str:
    close = difflib.get_close_matches(word, sorted(known), n=1)
    if close:
        return f" (did you mean {close[0]}?)"
    return f" (there are: {', '.join(sorted(known)[:8])})" if known else ""
