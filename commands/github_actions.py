"""What GitHub Actions reads from a step: outputs, annotations and summaries."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

Level = Literal["error", "warning", "notice"]  # of an annotation


def add_outputs(file: Path | None, outputs: Mapping[str, object]) -> None:
    """Append each output as a line NAME=VALUE to the step's output file. None: do nothing."""
    if file is not None:
        with file.open("a", encoding="utf-8") as end:
            end.writelines(f"{name}={value}\n" for name, value in outputs.items())


def add_summary(file: Path, markdown: str) -> None:
    """Append Markdown to a file, like that which GITHUB_STEP_SUMMARY names."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as end:
        end.write(markdown)


def add_variable(name: str, value: str) -> None:
    """Set a variable for the next steps; outside of a workflow do nothing."""
    if file := os.environ.get("GITHUB_ENV"):
        with Path(file).open("a", encoding="utf-8") as end:
            end.write(f"{name}={value}\n")


def in_workflow() -> bool:
    """Whether this process is a step of a workflow."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def annotation(level: Level, text: str, file: Path, line: int | None = None) -> str:
    """A workflow command by which Actions shows a text beside a file, or beside a line of it."""
    position = f"file={_escaped(str(file), ':,')}" + (f",line={line}" if line else "")
    return f"::{level} {position}::{_escaped(text)}"


def _escaped(text: str, also: str = "") -> str:
    for character in "%\r\n" + also:
        text = text.replace(character, f"%{ord(character):02X}")
    return text
