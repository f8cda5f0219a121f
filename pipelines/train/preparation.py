"""Checks a recipe and loads its base, before the training."""

from dataclasses import replace

import torch

from atelier.data.recipe import Recipe, Stage
from atelier.errors import RecipeError
from pipelines.train.choosing import Judge
from pipelines.train.methods import METHODS
from pipelines.train.optimiser import DTYPES, check_optimizer, check_precision
from services.engine.base import Base, load_base


def only_stage(recipe: Recipe) -> Stage:
    """Return the only stage. Raises RecipeError for several stages, or for an unknown method."""
    if len(recipe.stages) > 1:
        raise RecipeError(
            f"{recipe.adapter}: {len(recipe.stages)} stages, but only one can be trained; keep "
            "stages.0 and train the others with separate recipes"
        )
    stage = recipe.stages[0]
    if stage.method not in METHODS:
        raise RecipeError(
            f"{recipe.adapter}: stages.0.method {stage.method} is not implemented; use "
            f"{', '.join(METHODS)}"
        )
    return stage


def require_judge(recipe: Recipe, judge: Judge | None) -> None:
    """Raise RecipeError if the recipe has `checkpoint.judge`, but there is no judge."""
    if recipe.checkpoint.judge is not None and judge is None:
        raise RecipeError(
            f"{recipe.adapter}: checkpoint.judge needs a policy; train it with `atelier train` or "
            "`atelier run`, pass a judge to `train`, or remove the key"
        )


def load(recipe: Recipe, stage: Stage, device: torch.device) -> Base:
    """Load the base.

    Its `id` is the name in the recipe, even if its files were fetched elsewhere.
    """
    check_precision(stage.train.precision, device)
    check_optimizer(stage.train.optimizer, device)
    spec = recipe.base_here
    base = load_base(
        spec.model,
        revision=spec.revision,
        vae=spec.vae,
        device=device,
        dtype=DTYPES[stage.train.precision],
    )
    return replace(base, id=recipe.base.model)
