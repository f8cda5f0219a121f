"""`atelier train`: train an adapter from a recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.errors import BadInput
from atelier.home import Home
from commands.command import Answer
from commands.terminal import hide_library_bars, short

if TYPE_CHECKING:
    from atelier.adapter.package import Package


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
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Policy that judges the checkpoints, if the recipe has `checkpoint.judge`. "
            "Default: the built-in policy.",
        ),
    ] = None,
    from_checkpoint: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="STEP",
            help="Write a package from the checkpoint of this step in the output folder; do not "
            "train.",
        ),
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

    If the recipe has `checkpoint.judge`, the checkpoint with the best score under the policy
    becomes the adapter, otherwise the last state.
    """
    if recipe is None and deliver is not None:
        return _deliver(deliver)
    if recipe is None or deliver is not None:
        raise BadInput("RECIPE, --deliver: exactly one is required; give RECIPE or --deliver")
    if from_checkpoint is not None and (resume or policy or processes > 1):
        raise BadInput(
            "--from-checkpoint: trains nothing; use it without --resume, --policy and --processes"
        )
    from atelier.data.policy import Policy
    from atelier.data.recipe import Recipe

    loaded_recipe, judging = Recipe.load(recipe), Policy.load(policy)
    if policy is not None and loaded_recipe.checkpoint.judge is None:
        raise BadInput(
            f"--policy: {recipe} has no `checkpoint.judge`, so nothing is judged; add "
            "the key, or omit --policy"
        )

    # imported after the validation of the input, because the imports are slow
    from pipelines.train.launch import train_in
    from pipelines.train.packaging import package_of_checkpoint
    from pipelines.train.run_folder import RunFolder

    hide_library_bars()
    folder = output or RunFolder.of(loaded_recipe, Home.find()).root
    if from_checkpoint is not None:
        package = package_of_checkpoint(loaded_recipe, folder, from_checkpoint)
        return _answer(package, from_checkpoint, recipe)
    result = train_in(processes, loaded_recipe, judging, output=folder, resume=resume)
    more = {"run_id": result.run_id, "seconds": round(result.seconds, 3)}
    return _answer(result.package, result.steps, recipe, more)


def _deliver(run: Path) -> Answer:
    from pipelines.train.tracking.tracker import deliver

    deliver(run, Home.find())
    return Answer(f"{run}: delivered", {"run": str(run), "delivered": True})


def _answer(
    package: "Package", steps: int, recipe: Path, more: Mapping[str, Any] | None = None
) -> Answer:
    lines = [
        f"{package.path}  {short(package.digest)}, {steps} steps",
        f"to evaluate it: atelier evaluate {package.path} --recipe {recipe}",
    ]
    data = {
        "adapter": package.manifest.name,
        "package": str(package.path),
        "digest": package.digest,
        "steps": steps,
        **(more or {}),
    }
    return Answer("\n".join(lines), data)
