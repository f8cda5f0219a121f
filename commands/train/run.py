"""`atelier run`: the whole pipeline, from a recipe to a serving adapter."""

from pathlib import Path
from typing import Annotated

import typer

from commands.verb import Answer


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe.")],
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Policy file. Default: the built-in policy.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")] = False,
) -> Answer:
    """Train, evaluate, register and promote an adapter.

    Exit code 1 if the verdict refuses it.
    """
    from atelier.adapter.signature_policy import SignaturePolicy
    from atelier.data.policy import Policy
    from atelier.data.recipe import Recipe
    from atelier.home import Home
    from commands.settings import CommandSettings

    found, operators = Recipe.load(recipe), Policy.load(policy)
    from commands.quiet import quiet_loading
    from commands.release.release import answer
    from commands.serve.smoke import smoke_check
    from pipelines.run import run as whole

    quiet_loading()
    home = Home.find()
    signatures = SignaturePolicy.of(CommandSettings.read())
    status = whole(
        found, operators, home, signatures=signatures, resume=resume, smoke=smoke_check(home)
    )
    return answer(status)
