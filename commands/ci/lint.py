"""`atelier lint`: check recipes and their pictures before training on a cluster."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from atelier.errors import ExitCode
from commands.command import Answer
from commands.github_actions import Level, add_summary, annotation, in_workflow
from commands.terminal import count

if TYPE_CHECKING:
    from pipelines.dataset import Finding

_LEVELS: Final[dict[str, Level]] = {"error": "error", "warning": "warning", "info": "notice"}


def lint(
    recipes: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RECIPE…", help="Recipe files. Default: all in adapters/.", show_default=False
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="REV", help="Check only recipes that changed since this commit."),
    ] = None,
    summary: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Append the findings to this file as Markdown; repeatable."
        ),
    ] = None,
) -> Answer:
    """Check recipes and their pictures for errors and warnings.

    Exit code 1 if an error would stop a training run.
    """
    from pipelines.dataset import lint_recipe

    findings = {recipe: lint_recipe(recipe) for recipe in recipes or _recipes(since)}
    flat = [finding for of_recipe in findings.values() for finding in of_recipe]
    errors = sum(finding.severity == "error" for finding in flat)
    for file in summary or ():
        add_summary(file, "\n".join(_markdown(findings)) + "\n")
    lines = [str(finding) for finding in flat]
    if in_workflow():
        lines += [_annotation(finding) for finding in flat]
    return Answer(
        text="\n".join([*lines, f"{count(len(findings), 'recipe')}: {count(errors, 'error')}"]),
        data={
            "errors": errors,
            "recipes": {
                str(recipe): [{**vars(finding), "file": str(finding.file)} for finding in of_recipe]
                for recipe, of_recipe in findings.items()
            },
        },
        exit_code=ExitCode.of_verdict(errors == 0),
    )


def _recipes(since: str | None) -> list[Path]:
    """Return all recipes of the checkout, or only the recipes that changed since a commit."""
    from atelier.ci.changes import changes_since
    from atelier.ci.git import Repository
    from atelier.data.recipe import ADAPTERS, RECIPE

    if since is None:
        return sorted(Path(ADAPTERS).glob(f"*/{RECIPE}"))
    repository = Repository.find()
    changed = changes_since(repository, since).train
    return [Path(os.path.relpath(repository.root / trained.recipe)) for trained in changed]


def _annotation(finding: "Finding") -> str:
    numbered = re.match(rf"{re.escape(str(finding.file))}:(\d+): ", finding.text)
    line = int(numbered[1]) if numbered else None
    text = f"{finding.text}; {finding.advice}"
    return annotation(_LEVELS[finding.severity], text, finding.file, line)


def _markdown(findings: dict[Path, list["Finding"]]) -> Iterator[str]:
    for recipe, of_recipe in findings.items():
        good = all(finding.severity != "error" for finding in of_recipe)
        yield f"### {'✅' if good else '❌'} {_code(str(recipe))}"
        yield ""
        for finding in of_recipe:
            file, text = _code(str(finding.file)), _code(finding.text)
            yield f"- **{finding.severity}** {file}: {text}; {finding.advice}"
        if not of_recipe:
            yield "No findings."
        yield ""


def _code(text: str) -> str:
    """Return untrusted text as inline code, so that Markdown in it has no effect."""
    return "`" + text.replace("`", "'").replace("\n", " ") + "`"
