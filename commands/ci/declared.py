"""`atelier declared`: check whether git declares an adapter."""

from pathlib import Path
from typing import Annotated

import typer

from commands.ci.outputs import add_outputs
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
    found = declarations.find(name)
    add_outputs(github_output, {"declared": "true" if found else "false"})
    said = f"declares {name}@{found.version}" if found else "no such file, so not declared"
    data = {
        "adapter": name,
        "environment": environment,
        "version": found.version if found else None,
        "canary": found.canary.version if found and found.canary else None,
    }
    return Answer(f"{declarations.path(name)}: {said}", data)
