"""`atelier changed`: list the recipes and declarations that a push changed."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.command import Answer
from commands.github_actions import add_outputs

if TYPE_CHECKING:
    from atelier.ci.changes import Changes

Since = Annotated[str, typer.Option(metavar="REV", help="Commit before the push.")]


def changed(
    since: Since,
    until: Annotated[str, typer.Option(metavar="REV", help="Commit after the push.")] = "HEAD",
    github_output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append each list to this file as a step output."),
    ] = None,
) -> Answer:
    """List the recipes and declarations that a push changed.

    If the commit before the push is missing (a first push, or rewritten history), all recipes and
    declarations count as changed, and removed files are not detected. The commands of later steps
    skip work that is already complete.
    """
    from atelier.ci.changes import changes_since
    from atelier.ci.git import Repository

    changes = changes_since(Repository.find(), since, until)
    matrices = _matrices(changes)
    add_outputs(github_output, {name: json.dumps(jobs) for name, jobs in matrices.items()})
    return Answer(
        _text(matrices, changes, since),
        {"since": changes.since, "until": changes.until, **matrices},
    )


def _matrices(changes: "Changes") -> dict[str, list[dict[str, Any]]]:
    """Return each list in the form of a job matrix."""
    return {
        "train": [{"adapter": recipe.adapter, "recipe": recipe.recipe} for recipe in changes.train],
        "removed": [{"adapter": name} for name in changes.removed],
        "promote": [vars(declared) for declared in changes.promote],
        "retire": [vars(declared) for declared in changes.retire],
    }


def _text(matrices: dict[str, list[dict[str, Any]]], changes: "Changes", since: str) -> str:
    missing = f"{since}: not in this repository; all recipes and declarations count as changed"
    lines = [] if changes.since else [missing]
    for name, jobs in matrices.items():
        lines += [f"{name:8}{'  '.join(map(str, job.values()))}" for job in jobs]
    return "\n".join(lines) or "nothing to do"
