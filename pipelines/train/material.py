"""What one stage of a training is made from."""

from dataclasses import dataclass

from atelier.data.recipe import Recipe, Stage
from pipelines.dataset import PictureFolder
from services.engine.base import Base


@dataclass(frozen=True)
class StageInputs:
    """A base, a recipe's stage, its pictures, and the class pictures that its prior asks for."""

    base: Base
    recipe: Recipe
    stage: Stage
    pictures: PictureFolder
    class_pictures: PictureFolder | None = None
