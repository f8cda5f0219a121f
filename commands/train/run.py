"""`atelier run`: the whole pipeline, from a recipe to a serving adapter."""

from pathlib import Path
from typing import Annotated

import typer

from commands.command import Answer
from commands.terminal import hide_library_bars


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file.")],
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Policy file. Default: the built-in policy.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")] = False,
) -> Answer:
    """Train, evaluate, register and promote an adapter.

    Exit code 1 if the evaluation refuses the adapter.
    """
    from atelier.adapter.signature_policy import SignaturePolicy
    from atelier.data.policy import Policy
    from atelier.data.recipe import Recipe
    from atelier.home import Home
    from commands.settings import CommandSettings

    loaded_recipe, operators_policy = Recipe.load(recipe), Policy.load(policy)

    # imported after the validation of the input, because the imports are slow
    from commands.release.release import answer
    from pipelines import run as pipeline
    from pipelines.delivery.smoke import local_smoke

    hide_library_bars()
    home = Home.find()
    return answer(
        pipeline.run(
            loaded_recipe,
            operators_policy,
            home,
            signatures=SignaturePolicy.of(CommandSettings.read()),
            resume=resume,
            smoke=local_smoke(home),
        )
    )
