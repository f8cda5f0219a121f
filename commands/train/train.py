"""`atelier train`: train an adapter from a recipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.errors import BadInput
from atelier.home import Home
from commands.command import Answer
from commands.terminal import hide_library_bars, short

if TYPE_CHECKING:
    from pipelines.train import TrainResult


def train(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="Recipe file.", show_default=False)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in the output folder.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Output folder. Default: in $ATELIER_HOME.")
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Number of processes, one for each GPU; each uses the batch size of the recipe.",
        ),
    ] = 1,
    deliver: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Send the unsent records of this run folder to MLflow and W&B; do not train.",
        ),
    ] = None,
) -> Answer:
    """Train an adapter from a recipe.

    Use --resume to continue an interrupted run. The weights are bit-identical to the weights of an
    uninterrupted run. On SIGTERM, the command writes a checkpoint and ends with exit code 143.
    """
    if recipe is None and deliver is not None:
        return _deliver(deliver)
    if recipe is None or deliver is not None:
        raise BadInput("RECIPE, --deliver: exactly one is required; give RECIPE or --deliver")
    from atelier.data.recipe import Recipe

    loaded_recipe = Recipe.load(recipe)

    # imported after the validation of the input, because the imports are slow
    from pipelines.train.launch import train_in
    from pipelines.train.run_folder import RunFolder

    hide_library_bars()
    folder = output or RunFolder.of(loaded_recipe, Home.find()).root
    return _answer(train_in(processes, loaded_recipe, output=folder, resume=resume), recipe)


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
