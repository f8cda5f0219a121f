"""The recipes that people start from can be read, and ask for nothing that is not built."""

from pathlib import Path

import pytest

from atelier.data.recipe import Recipe

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "examples").glob("*/*.yaml"))


def test_there_are_examples() -> None:
    assert ROOT / "examples/thor-cat/recipe.yaml" in FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_an_example_is_a_recipe_of_one_built_stage(file: Path) -> None:
    recipe = Recipe.load(file)
    assert [stage.method for stage in recipe.stages] == ["dreambooth"]
    assert recipe.fill(recipe.stages[0].prompt or "")
