"""Writes the recipes of the calibration: the demo's, with the subject and changes of a kind."""

from pathlib import Path
from typing import Final

from atelier.data.recipe import Recipe, TrackingSpec
from models.miniature.build.examples import write_look_alikes

from .kinds import Kind
from .subjects import Subject, write_pictures

DEMO: Final = Path("examples/thor-cat/recipe.yaml")
PICTURES: Final = "images"
LOOK_ALIKES: Final = "look-alikes"


def kind_recipe(subject: Subject, kind: Kind, folder: Path, *, adapter: str) -> Recipe:
    """Draw the pictures of a kind into `folder`; return the recipe that trains on them."""
    demo = Recipe.load(DEMO).model_dump(mode="json", by_alias=True)
    (stage,) = demo["stages"]
    stage["dataset"] |= {"path": PICTURES}
    stage["prior"] |= {"prompt": f"a photo of a {subject.kind}"}
    for key, change in (kind.changes or {}).items():
        stage[key] = stage[key] | change if isinstance(change, dict) else change
    demo |= {
        "adapter": adapter,
        "trigger": f"sks {subject.kind}",
        "class": subject.kind,
        "look_alikes": LOOK_ALIKES,
        "validation": None,
        "tracking": TrackingSpec(mlflow=False).model_dump(mode="json"),
    }
    write_pictures(folder / PICTURES, kind.characters(subject), kind.places, subject.seed)
    write_look_alikes(folder / LOOK_ALIKES, subject.character, subject.seed)
    return Recipe.model_validate(demo | {"folder": folder})
