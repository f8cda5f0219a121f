"""`atelier train`: train an adapter from a recipe and its pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.errors import BadInput
from atelier.home import Home
from commands.terminal import hide_library_bars, short
from commands.verb import Answer

if TYPE_CHECKING:
    from pipelines.train import TrainResult


def train(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="The recipe.", show_default=False)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in the output folder.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Output folder. Default: inside the home.")
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Number of processes, one on each GPU. Each uses the recipe's batch size.",
        ),
    ] = 1,
    deliver: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Train nothing; send what MLflow and W&B have not received of this run.",
        ),
    ] = None,
) -> Answer:
    """Train an adapter from a recipe.

    A run that was killed at any step can be continued with --resume. The result equals that of an
    uninterrupted run, bit for bit. SIGTERM writes a checkpoint and ends with exit code 143.
    """
    if recipe is None and deliver is not None:
        return _deliver(deliver)
    if recipe is None or deliver is not None:
        raise BadInput("give either a RECIPE or --deliver RUN")
    from atelier.data.recipe import Recipe

    given_recipe = Recipe.load(recipe)

    # heavy imports wait until the input is valid
    from pipelines.train.launch import train_in
    from pipelines.train.run_folder import RunFolder

    hide_library_bars()
    folder = output or RunFolder.of(given_recipe, Home.find()).root
    return _answer(train_in(processes, given_recipe, output=folder, resume=resume), recipe)


def _deliver(run: Path) -> Answer:
    from pipelines.train.tracking.tracker import deliver

    deliver(run, Home.find())
    return Answer(f"{run}: delivered", {"run": str(run), "delivered": True})


def _answer(result: "TrainResult", recipe: Path) -> Answer:
    package = result.package
    lines = [
        f"{package.path}  {short(package.digest)}, {result.steps} steps",
        f"to evaluate it: atelier evaluate {package.path} --recipe {recipe}",
    ]
    data = {
        "adapter": package.manifest.name,
        "package": str(package.path),
        "digest": package.digest,
        "run_id": result.run_id,
        "steps": result.steps,
        "seconds": round(result.seconds, 3),
    }
    return Answer("\n".join(lines), data)
