"""`atelier changed`: the recipes and declarations that a push changed."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.ci.outputs import add_outputs
from commands.verb import Answer

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
    """List the recipes to train and the declarations to apply after a push.

    If the commit before the push is missing (a first push, or rewritten history), everything counts
    as changed. Work that was already done is recognised and not repeated. Files that were removed
    in between cannot be detected then.
    """
    from atelier.ci.changes import changes
    from atelier.ci.git import GitError, Repository

    repository = Repository.find()
    before, after = repository.commit(since), repository.commit(until)
    if after is None:
        raise GitError(f"{until}: is no commit of {repository.root}")
    lists = _lists(changes(repository, before, after))
    add_outputs(github_output, {name: json.dumps(found) for name, found in lists.items()})
    return Answer(_told(lists, since, before), {"since": before, "until": after, **lists})


def _lists(found: "Changes") -> dict[str, list[dict[str, Any]]]:
    """Each list in the form of a job matrix."""
    return {
        "train": [{"adapter": one.adapter, "recipe": one.recipe} for one in found.train],
        "removed": [{"adapter": name} for name in found.removed],
        "promote": [vars(one) for one in found.promote],
        "retire": [vars(one) for one in found.retire],
    }


def _told(lists: dict[str, list[dict[str, Any]]], since: str, before: str | None) -> str:
    lines = [] if before else [f"{since} is not in this repository: everything counts as changed"]
    for what, found in lists.items():
        lines += [f"{what:8}{'  '.join(map(str, one.values()))}" for one in found]
    return "\n".join(lines) or "nothing to do"
