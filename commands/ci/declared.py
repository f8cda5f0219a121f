"""`atelier declared`: whether git lets an adapter serve."""

from pathlib import Path
from typing import Annotated

import typer

from commands.ci.outputs import add_outputs
from commands.verb import Answer


def declared(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The adapter.")],
    environment: Annotated[str, typer.Option(help="Where it would serve.")] = "staging",
    github_output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Add `declared=true` or `false` as a step's output."),
    ] = None,
) -> Answer:
    """Say whether this checkout declares an adapter, and which version.

    A workflow that was approved of late, or runs again, asks it of the branch as it is now.
    """
    from atelier.data.declaration import Declarations

    declarations = Declarations(Path(), environment)
    found = declarations.find(name)
    add_outputs(github_output, {"declared": "true" if found else "false"})
    said = f"declares {name}@{found.version}" if found else "is not there: it is not to serve"
    data = {
        "adapter": name,
        "environment": environment,
        "version": found.version if found else None,
        "canary": found.canary.version if found and found.canary else None,
    }
    return Answer(f"{declarations.path(name)}: {said}", data)
