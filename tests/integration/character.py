"""A character nobody has seen, drawn from a seed and learnt by the demo's recipe."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from atelier.data.policy import Policy
from atelier.data.recipe import Recipe, TrackingSpec
from models.miniature.build.world import PHRASES, Character, character, draw
from pipelines.evaluate import Evaluation, evaluate
from pipelines.train import TrainResult, train

BASE = Path("models/miniature")
DEMO = Path("examples/thor-cat/recipe.yaml")
SHOWN = ("room", "desert", "sea", "space")  # none of those that the policy asks for
PICTURES = 8
KINDS = ("cat", "rabbit", "robot")
MISSING = "models/miniature is not measured: its training is not over (make miniature)"

needs_miniature = pytest.mark.skipif(not (BASE / "quality.json").exists(), reason=MISSING)


@dataclass(frozen=True)
class Learnt:
    """A character and the verdict about the adapter trained on it."""

    seed: int
    kind: str
    folder: Path
    policy: Policy
    trained: TrainResult
    evaluation: Evaluation

    def pictures(self, *, base: bool) -> list[Image.Image]:
        """Those that ask for the subject, all in places where it was never shown."""
        asked = [one for one in self.evaluation.measures.pictures if one.role == "subject"]
        assert not any(PHRASES[place] in one.prompt for one in asked for place in SHOWN)
        names = [one.base_picture if base else one.picture for one in asked]
        return [Image.open(self.folder / "evaluation" / name).convert("RGB") for name in names]


def recipe(folder: Path, kind: str) -> Recipe:
    """The demo's recipe for this character."""
    demo = Recipe.load(DEMO)
    (stage,) = demo.stages
    assert stage.prior is not None
    prior = stage.prior.model_copy(update={"prompt": f"a photo of a {kind}"})
    return demo.model_copy(
        update={
            "adapter": "character",
            "trigger": f"sks {kind}",
            "class_": kind,
            "stages": (stage.model_copy(update={"prior": prior}),),
            "validation": None,
            "tracking": TrackingSpec(mlflow=False),
            "folder": folder,
        }
    )


def draw_pictures(subject: Character, folder: Path, rng: Random) -> None:
    """Pictures with a caption that names the place, as the demo's are."""
    folder.mkdir()
    lines = []
    for index in range(PICTURES):
        place = SHOWN[index % len(SHOWN)]
        draw(subject, place, rng).save(folder / f"{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", "text": PHRASES[place]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def learn(folder: Path) -> Learnt:
    """Two to three minutes; ATELIER_CHARACTER_SEED repeats one."""
    seed = int(os.environ.get("ATELIER_CHARACTER_SEED") or time.time_ns() % 1_000_000)
    kind = KINDS[seed % len(KINDS)]
    draw_pictures(character(seed, kind), folder / "images", Random(seed))
    said, policy = recipe(folder, kind), Policy.load()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATELIER_HOME", str(folder / "home"))
        trained = train(said, output=folder / "run")
    judged = evaluate(
        trained.package,
        policy,
        base=BASE,
        training_pictures=said,
        output=folder / "evaluation",
    )
    return Learnt(seed, kind, folder, policy, trained, judged)
