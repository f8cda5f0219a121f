"""`atelier lint`: check recipes and their pictures before they are submitted to a cluster."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.verb import Answer

if TYPE_CHECKING:
    from pipelines.dataset import Finding

REFUSED = 1
_ANNOTATION = {"error": "error", "warning": "warning", "info": "notice"}


def lint(
    recipes: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RECIPE…", help="Default: all recipes in adapters/.", show_default=False
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="REV", help="Only recipes that changed since this commit.")
    ] = None,
    summary: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Append the findings as Markdown; repeatable."),
    ] = None,
) -> Answer:
    """Check recipes and their pictures for errors and warnings.

    Exit code 1 if an error would stop a training.
    """
    found = {recipe: list(_findings(recipe)) for recipe in recipes or _chosen(since)}
    errors = sum(one.severity == "error" for findings in found.values() for one in findings)
    for path in summary or ():
        with path.open("a", encoding="utf-8") as file:
            file.write("\n".join(_summary(found)) + "\n")
    lines = [str(one) for findings in found.values() for one in findings]
    if os.environ.get("GITHUB_ACTIONS") == "true":
        lines += [_annotation(one) for findings in found.values() for one in findings]
    recipe_count, error_count = _count(len(found), "recipe"), _count(errors, "error")
    return Answer(
        text="\n".join([*lines, f"{recipe_count}: {error_count}"]),
        data={
            "errors": errors,
            "recipes": {
                str(recipe): [{**vars(one), "file": str(one.file)} for one in findings]
                for recipe, findings in found.items()
            },
        },
        exit_code=REFUSED if errors else 0,
    )


def _chosen(since: str | None) -> list[Path]:
    """All recipes of the checkout, or those that changed since a commit."""
    from atelier.ci.changes import changes
    from atelier.ci.git import GitError, Repository
    from atelier.data.recipe import ADAPTERS, RECIPE

    if since is None:
        return sorted(Path(ADAPTERS).glob(f"*/{RECIPE}"))
    repository = Repository.find()
    before, after = repository.commit(since), repository.commit("HEAD")
    if after is None:
        raise GitError(f"{repository.root}: has no commit")
    found = changes(repository, before, after)
    return [Path(os.path.relpath(repository.root / one.recipe)) for one in found.train]


def _findings(path: Path) -> Iterator["Finding"]:
    from atelier.data.recipe import Recipe
    from atelier.errors import RecipeError
    from pipelines.dataset import Finding, lint_stage

    try:
        recipe = Recipe.load(path)
    except RecipeError as error:
        for line in str(error).splitlines():
            yield Finding("error", path, line, "correct the recipe")
        return
    for stage in recipe.stages:
        yield from lint_stage(recipe, stage)


def _annotation(one: "Finding") -> str:
    """An annotation that Actions shows beside the file: an escaped workflow command."""
    placed = re.match(rf"{re.escape(str(one.file))}:(\d+): ", one.text)
    place = f"file={_escaped(str(one.file), of_property=True)}"
    line = f",line={placed[1]}" if placed else ""
    return f"::{_ANNOTATION[one.severity]} {place}{line}::{_escaped(f'{one.text}; {one.advice}')}"


def _escaped(text: str, *, of_property: bool = False) -> str:
    for sign in "%\r\n" + (":," if of_property else ""):
        text = text.replace(sign, f"%{ord(sign):02X}")
    return text


def _summary(found: dict[Path, list["Finding"]]) -> Iterator[str]:
    for recipe, findings in found.items():
        good = all(one.severity != "error" for one in findings)
        yield f"### {'✅' if good else '❌'} {_code(str(recipe))}"
        yield ""
        for one in findings:
            yield f"- **{one.severity}** {_code(str(one.file))}: {_code(one.text)}; {one.advice}"
        if not findings:
            yield "No findings."
        yield ""


def _code(text: str) -> str:
    """Untrusted text as code, so that Markdown in it has no effect."""
    return "`" + text.replace("`", "'").replace("\n", " ") + "`"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
