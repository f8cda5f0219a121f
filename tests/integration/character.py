"""A character nobody has seen, drawn from the time of day, and the adapters of it."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from atelier.adapter.package import Package
from atelier.data.policy import Policy
from atelier.files import locked
from models.miniature.build.oracle import load_oracle
from models.miniature.build.world import PHRASES, character
from models.miniature.calibrate.kinds import KINDS
from models.miniature.calibrate.labels import label, rates
from models.miniature.calibrate.recipes import kind_recipe
from models.miniature.calibrate.subjects import SHOWN, Subject
from pipelines.evaluate import FILE, Evaluation, evaluate
from pipelines.train import TrainResult, train

BASE = Path("models/miniature")
CLASSES = ("cat", "rabbit", "robot")
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


def require_oracle_agrees(made: Learnt, kind: str) -> str:
    """Fail if the verdict contradicts the oracle, which no scorer of the policy knows.

    Between good and bad, where people would disagree, and without enough evidence, nothing is
    required. Returns both, for the record.
    """
    oracle, folder = load_oracle(BASE / "oracle"), made.folder / "evaluation"
    found = rates(made.evaluation, folder, made.subject.character, oracle)
    said, decision = label(found, made.subject, KINDS[kind]), made.evaluation.decision
    wrong = {"good": "refused", "bad": "accepted"}.get(said.label)
    assert decision != wrong, (made.subject.name, said.why, made.evaluation.reasons)
    return f"{said.label} ({said.why}), {decision}"


def subject_of_the_hour(folder: Path) -> Subject:
    """Another one at every time, the same for all who share the folder.

    ATELIER_CHARACTER_SEED repeats one.
    """
    file = folder / "seed"
    with locked(folder / ".seed.lock"):
        if not file.exists():
            seed = os.environ.get("ATELIER_CHARACTER_SEED") or str(time.time_ns() % 1_000_000)
            file.write_text(seed)
    number = int(file.read_text())
    return Subject(number, character(number, CLASSES[number % len(CLASSES)]))


def learn(folder: Path, subject: Subject, kind: str = "good") -> Learnt:
    """Train and judge an adapter of one of the calibration's kinds; one to three minutes.

    Processes that learn into the same folder wait for each other, and only the first one trains.
    """
    with locked(folder / ".lock"), pytest.MonkeyPatch.context() as patch:
        # Class pictures and the base's pictures are the same for all kinds.
        patch.setenv("ATELIER_HOME", str(folder.parent / "home"))
        policy, output, run = Policy.load(), folder / "evaluation", folder / "run"
        recipe = kind_recipe(subject, KINDS[kind], folder, adapter="character")
        trained = train(recipe, output=run, resume=run.exists())
        if (output / FILE).exists():
            judged = Evaluation.load(output)
        else:
            judged = evaluate(
                trained.package,
                policy,
                base=BASE,
                training_pictures=recipe,
                output=output,
                cache=folder.parent / "base-pictures",
            )
    return Learnt(subject, folder, policy, trained, judged)
