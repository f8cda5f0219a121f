"""`atelier dataset`: check folders of pictures before training."""

from pathlib import Path
from typing import Annotated

import typer

from atelier.errors import ExitCode
from commands.command import Answer
from commands.terminal import count


def lint(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of pictures.")],
    resolution: Annotated[
        int | None, typer.Option(min=8, help="Training resolution in pixels.")
    ] = None,
    captions: Annotated[str | None, typer.Option(help="Caption column of metadata.jsonl.")] = None,
) -> Answer:
    """Check a folder of pictures for errors and warnings.

    Exit code 1 if an error would stop a training run.
    """
    from pipelines.dataset import lint as lint_folder

    findings = lint_folder(folder, resolution=resolution, captions=captions)
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    summary = f"{folder}: {count(errors, 'error')}, {count(warnings, 'warning')}"
    return Answer(
        text="\n".join([*map(str, findings), summary]),
        data={
            "folder": str(folder),
            "errors": errors,
            "warnings": warnings,
            "findings": [{**vars(finding), "file": str(finding.file)} for finding in findings],
        },
        exit_code=ExitCode.of_verdict(errors == 0),
    )
