"""`atelier dataset`: check folders of pictures before training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.errors import ExitCode
from commands.command import Answer
from commands.terminal import count, hide_library_bars

if TYPE_CHECKING:
    from atelier.data.policy import Policy
    from pipelines.dataset import Finding


def lint(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of pictures.")],
    resolution: Annotated[
        int | None, typer.Option(min=8, help="Training resolution in pixels.")
    ] = None,
    captions: Annotated[str | None, typer.Option(help="Caption column of metadata.jsonl.")] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Policy whose scorer compares the subjects of the pictures."
        ),
    ] = None,
) -> Answer:
    """Check a folder of pictures for errors and warnings.

    Exit code 1 if an error would stop a training run.
    """
    from atelier.data.policy import Policy
    from pipelines.dataset import lint as lint_folder

    operators_policy = Policy.load(policy) if policy else None
    findings = lint_folder(folder, resolution=resolution, captions=captions)
    readable = not any(finding.severity == "error" for finding in findings)
    if operators_policy is not None and readable:
        findings = [*findings, *_subjects(folder, operators_policy)]
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


def _subjects(folder: Path, policy: "Policy") -> "list[Finding]":
    """Compare the subjects of the pictures."""
    from pipelines.evaluate.consistency import subject_findings
    from pipelines.evaluate.scorers import Scorers  # imports torch

    hide_library_bars()
    return subject_findings(folder, policy, Scorers(policy.scorers.model_dump()))
