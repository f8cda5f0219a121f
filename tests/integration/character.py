"""A character nobody has seen, drawn from the time of day, and the adapters of it."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from atelier.adapter.package import Package
from atelier.data.policy import Policy
from models.miniature.build.world import PHRASES, WEARERS, character
from models.miniature.calibrate.kinds import KINDS
from models.miniature.calibrate.recipes import kind_recipe
from models.miniature.calibrate.subjects import SHOWN, Subject
from pipelines.evaluate import Evaluation, evaluate
from pipelines.train import TrainResult, train

BASE = Path("models/miniature")
MISSING = "models/miniature is not measured: its training is not over (make miniature)"

needs_miniature = pytest.mark.skipif(not (BASE / "quality.json").exists(), reason=MISSING)


@dataclass(frozen=True)
class Learnt:
    """An adapter of a character, and the verdict about it."""

    subject: Subject
    folder: Path
    policy: Policy
    trained: TrainResult
    evaluation: Evaluation

    @property
    def package(self) -> Package:
        """The adapter."""
        return self.trained.package

    def pictures(self, *, base: bool) -> list[Image.Image]:
        """Those that ask for the subject, all in places where it was never shown."""
        asked = [one for one in self.evaluation.measures.pictures if one.role == "subject"]
        assert not any(PHRASES[place] in one.prompt for one in asked for place in SHOWN)
        names = [one.base_picture if base else one.picture for one in asked]
        return [Image.open(self.folder / "evaluation" / name).convert("RGB") for name in names]


def subject_of_the_hour() -> Subject:
    """Another one at every time; ATELIER_CHARACTER_SEED repeats one."""
    seed = int(os.environ.get("ATELIER_CHARACTER_SEED") or time.time_ns() % 1_000_000)
    return Subject(seed, character(seed, WEARERS[seed % len(WEARERS)]))


def learn(folder: Path, subject: Subject, kind: str = "good") -> Learnt:
    """Train and judge an adapter of one of the calibration's kinds; one to three minutes."""
    recipe, policy = kind_recipe(subject, KINDS[kind], folder, adapter="character"), Policy.load()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATELIER_HOME", str(folder / "home"))
        trained = train(recipe, output=folder / "run")
    output = folder / "evaluation"
    judged = evaluate(trained.package, policy, base=BASE, training_pictures=recipe, output=output)
    return Learnt(subject, folder, policy, trained, judged)
