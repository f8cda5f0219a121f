"""Step outputs of GitHub Actions, which later steps and jobs read."""

from collections.abc import Mapping
from pathlib import Path


def add_outputs(file: Path | None, outputs: Mapping[str, object]) -> None:
    """Append NAME=VALUE lines to the file that GITHUB_OUTPUT names. None writes nothing."""
    if file is not None:
        with file.open("a", encoding="utf-8") as end:
            end.writelines(f"{name}={value}\n" for name, value in outputs.items())
