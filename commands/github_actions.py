"""Outputs, variables, annotations and summaries of a GitHub Actions step."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

Level = Literal["error", "warning", "notice"]  # the level of an annotation


def add_outputs(file: Path | None, outputs: Mapping[str, object]) -> None:
    """Append lines NAME=VALUE to the output file of a step. Do nothing if `file` is None."""
    if file is not None:
        with file.open("a", encoding="utf-8") as output:
            output.writelines(f"{name}={value}\n" for name, value in outputs.items())


def add_summary(file: Path, markdown: str) -> None:
    """Append Markdown to a summary file, such as GITHUB_STEP_SUMMARY."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as summary:
        summary.write(markdown)


def add_variable(name: str, value: str) -> None:
    """Set a variable for the later steps. Do nothing outside a workflow."""
    if file := os.environ.get("GITHUB_ENV"):
        with Path(file).open("a", encoding="utf-8") as variables:
            variables.write(f"{name}={value}\n")


def in_workflow() -> bool:
    """Return whether this process is a step of a workflow."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def annotation(level: Level, text: str, file: Path, line: int | None = None) -> str:
    """Return a workflow command that annotates a file, or one line of it, with a text."""
    position = f"file={_escaped(str(file), ':,')}" + (f",line={line}" if line else "")
    return f"::{level} {position}::{_escaped(text)}"


def _escaped(text: str, also: str = "") -> str:
    for character in "%\r\n" + also:
        text = text.replace(character, f"%{ord(character):02X}")
    return text
