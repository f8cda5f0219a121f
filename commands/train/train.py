"""`atelier train`: train an adapter from a recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.errors import BadInput, Unavailable
from atelier.home import Home
from commands.command import Answer
from commands.terminal import hide_library_bars, print_progress, short

if TYPE_CHECKING:
    from atelier.adapter.package import Package
    from atelier.stores.registry import Registry
    from pipelines.earlier import Earlier


def train(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="Recipe file.", show_default=False)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in the output folder.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Train anew, even if the same inputs were trained.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Output folder. Default: a folder in $ATELIER_HOME."),
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
    Without --output, the command reports an earlier result of the same recipe, pictures and base
    instead of training again.

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
    from pipelines import earlier
    from pipelines.train.launch import train_in
    from pipelines.train.packaging import package_of_checkpoint
    from pipelines.train.run_folder import RunFolder

    hide_library_bars()
    if from_checkpoint is not None:
        folder = output or RunFolder.of(loaded_recipe, Home.find()).root
        package = package_of_checkpoint(loaded_recipe, folder, from_checkpoint)
        return _answer(package, from_checkpoint, recipe)
    if output is None:
        home = Home.find()
        found = earlier.find(loaded_recipe, home, _registry(home), resume=resume, again=again)
        if found.version is not None or (found.finished and not resume):
            return _known(found, recipe)
        output = found.folder.root
    result = train_in(processes, loaded_recipe, judging, output=output, resume=resume)
    more = {"run_id": result.run_id, "seconds": round(result.seconds, 3)}
    return _answer(result.package, result.steps, recipe, more)


def _deliver(run: Path) -> Answer:
    from pipelines.train.tracking.tracker import deliver

    deliver(run, Home.find())
    return Answer(f"{run}: delivered", {"run": str(run), "delivered": True})


def _registry(home: Home) -> "Registry | None":
    """Return the registry, or None if it is unavailable: a training does not need it."""
    from pipelines.earlier import existing_registry

    try:
        return existing_registry(home)
    except Unavailable as error:
        print_progress(f"earlier versions are unknown: {error}")
        return None


def _known(found: "Earlier", recipe: Path) -> Answer:
    """Return the output for an earlier result with the same inputs, and the offer to train anew."""
    package = found.folder.finished() if found.finished else None
    label = found.version.label if found.version else str(found.folder.package)
    evaluate = label if found.version else f"{label} --recipe {recipe}"
    lines = [
        f"{label}: made from the same recipe, pictures and base; nothing was trained",
        f"to evaluate it: atelier evaluate {evaluate}",
        f"to train anew: atelier train {recipe} --again",
    ]
    data = {
        "adapter": found.version.name if found.version else package and package.manifest.name,
        "version": found.version.version if found.version else None,
        "package": str(package.path) if package else None,
        "digest": found.version.digest if found.version else package and package.digest,
        "trained": False,
    }
    return Answer("\n".join(lines), data)


def _answer(
    package: "Package", steps: int, recipe: Path, more: Mapping[str, Any] | None = None
) -> Answer:
    lines = [
        f"{package.path}  {short(package.digest)}, {steps} steps",
        f"to evaluate it: atelier evaluate {package.path} --recipe {recipe}",
    ]
    data = {
        "adapter": package.manifest.name,
        "trained": True,
        "package": str(package.path),
        "digest": package.digest,
        "steps": steps,
        **(more or {}),
    }
    return Answer("\n".join(lines), data)
