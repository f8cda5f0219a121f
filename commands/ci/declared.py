"""`atelier declared`: check whether git declares an adapter."""

from pathlib import Path
from typing import Annotated

import typer

from commands.github_actions import add_outputs
from commands.verb import Answer


def declared(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The adapter.")],
    environment: Annotated[str, typer.Option(help="Environment to check.")] = "staging",
    github_output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append `declared=true` or `false` as a step output."),
    ] = None,
) -> Answer:
    """Show whether this checkout declares an adapter, and which version.

    A workflow that is approved late, or runs again, reads the current state of the branch with it.
    """
    from atelier.data.declaration import Declarations

    declarations = Declarations(Path(), environment)
    declaration = declarations.find(name)
    add_outputs(github_output, {"declared": "true" if declaration else "false"})
    file, canary = declarations.path(name), declaration.canary if declaration else None
    data = {
        "adapter": name,
        "environment": environment,
        "version": declaration.version if declaration else None,
        "canary": canary.version if canary else None,
    }
    if declaration is None:
        return Answer(f"{file}: no such file, so not declared", data)
    return Answer(f"{file}: declares {name}@{declaration.version}", data)
