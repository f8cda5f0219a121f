"""Read captions from `metadata.jsonl`, the convention of Hugging Face's image folders."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atelier.errors import DatasetError

METADATA = "metadata.jsonl"
FILE_NAME = "file_name"


def read_captions(folder: Path, column: str) -> dict[str, str]:
    """Return captions by file name (relative to `folder`) from a column of `metadata.jsonl`.

    A caption is empty if its line lacks the column. The result is empty if the file is missing.
    Raises DatasetError, with the line, if the file is invalid or no line has the column.
    """
    file = folder / METADATA
    if not file.exists():
        return {}
    lines = _lines(file)
    columns = {name for _, line in lines for name in line} - {FILE_NAME}
    if lines and column not in columns:
        raise DatasetError(
            f"{file}: no line has the column {column!r}{_near(column, columns)}; "
            "correct `captions` in the recipe"
        )
    captions: dict[str, str] = {}
    for number, line in lines:
        name, caption = _entry(file, number, line, column)
        if name in captions:
            raise DatasetError(
                f"{file}:{number}: {name} has an earlier line; remove one of the lines"
            )
        captions[name] = caption
    return captions


def _entry(file: Path, number: int, line: Mapping[str, Any], column: str) -> tuple[str, str]:
    name = line.get(FILE_NAME)
    if not isinstance(name, str):
        raise DatasetError(f"{file}:{number}: no {FILE_NAME}; add the name of the picture")
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise DatasetError(
            f"{file}:{number}: {name} is outside the folder; move the picture into the folder"
        )
    if not (file.parent / path).is_file():
        near = _near(name, {entry.name for entry in file.parent.iterdir() if entry.is_file()})
        raise DatasetError(
            f"{file}:{number}: no picture {name} in {file.parent}{near}; correct the name or "
            "remove the line"
        )
    caption = line.get(column)
    if caption is not None and not isinstance(caption, str):
        raise DatasetError(f"{file}:{number}: {column} is {caption!r}; write the caption as text")
    return path.as_posix(), (caption or "").strip()


def _lines(file: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DatasetError(
                f"{file}:{number}: not JSON ({error}); write one object in each line"
            ) from error
        if not isinstance(value, dict):
            raise DatasetError(
                f'{file}:{number}: not an object; write one like {{"file_name": "a.png"}}'
            )
        lines.append((number, value))
    return lines


def _near(name: str, candidates: set[str]) -> str:
    """Return a suggestion for a misspelt name, or else the first candidates, in parentheses."""
    close = difflib.get_close_matches(name, sorted(candidates), n=1)
    if close:
        return f" (did you mean {close[0]}?)"
    return f" (available: {', '.join(sorted(candidates)[:8])})" if candidates else ""
