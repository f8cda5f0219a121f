"""`atelier dataset`: check a folder of pictures before training."""

from pathlib import Path
from typing import Annotated

import typer

from commands.verb import Answer

REFUSED = 1


def lint(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of pictures.")],
    resolution: Annotated[
        int | None, typer.Option(min=8, help="Resolution that a recipe would train at.")
    ] = None,
    captions: Annotated[
        str | None, typer.Option(help="Column of metadata.jsonl with the captions.")
    ] = None,
) -> Answer:
    """Check a folder of pictures for errors and warnings.

    Exit code 1 if an error would stop a training.
    """
    from pipelines.dataset import lint as find

    findings = find(folder, resolution=resolution, captions=captions)
    errors = sum(one.severity == "error" for one in findings)
    warnings = sum(one.severity == "warning" for one in findings)
    closing = f"{folder}: {_count(errors, 'error')}, {_count(warnings, 'warning')}"
    return Answer(
        text="\n".join([*map(str, findings), closing]),
        data={
            "folder": str(folder),
            "errors": errors,
            "warnings": warnings,
            "findings": [
                {
                    "severity": one.severity,
                    "file": str(one.file),
                    "text": one.text,
                    "advice": one.advice,
                }
                for one in findings
            ],
        },
        exit_code=REFUSED if errors else 0,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
