"""`atelier train`: train an adapter from a recipe and its pictures."""

from pathlib import Path
from typing import Annotated

import typer

from commands.table import short
from commands.verb import Answer


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in the output folder.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Output folder. Default: inside the home.")
    ] = None,
) -> Answer:
    """Train an adapter from a recipe.

    A run that was killed at any step can be continued with --resume. The result equals that of an
    uninterrupted run, bit for bit. SIGTERM writes a checkpoint and ends with exit code 143.
    """
    from atelier.data.recipe import Recipe
    from atelier.home import Home

    found = Recipe.load(recipe)  # before torch is imported, which takes seconds
    from commands.quiet import quiet_loading
    from pipelines.train import train as run
    from pipelines.train.progress import watcher
    from pipelines.train.run_folder import RunFolder

    quiet_loading()
    into = output or RunFolder.of(found, Home.find()).root
    result = run(found, output=into, resume=resume, progress=watcher())
    package = result.package
    lines = [f"{package.path}  {short(package.digest)}, {result.steps} steps"]
    lines.append(f"to evaluate it: atelier evaluate {package.path} --recipe {recipe}")
    data = {
        "adapter": package.manifest.name,
        "package": str(package.path),
        "digest": package.digest,
        "run_id": result.run_id,
        "steps": result.steps,
        "seconds": round(result.seconds, 3),
    }
    return Answer("\n".join(lines), data)
