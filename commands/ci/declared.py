"""`atelier declared`: show whether git declares an adapter."""

from pathlib import Path
from typing import Annotated

import typer

from commands.command import Answer
from commands.github_actions import add_outputs


def declared(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the adapter.")],
    environment: Annotated[str, typer.Option(help="Environment of the declaration.")] = "staging",
    github_output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append declared=true or declared=false to this file."),
    ] = None,
) -> Answer:
    """Show the version that this checkout declares for an adapter.

    A workflow that is approved late or runs again uses this command to read the current declaration
    of the branch.
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
        return Answer(f"{file}: no such file; the adapter is not declared", data)
    return Answer(f"{file}: declares {name}@{declaration.version}", data)
