"""The usual mistakes, made with a character from the time of day: none is accepted.

ATELIER_CHARACTER_SEED repeats a run.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from atelier.data.policy import Policy
from models.miniature.calibrate.kinds import KINDS
from models.miniature.calibrate.recipes import PICTURES
from pipelines.evaluate import Evaluation, evaluate
from tests.integration.character import (
    BASE,
    Learnt,
    learn,
    needs_miniature,
    require_oracle_agrees,
    subject_of_the_hour,
)
from tests.scorer_stand_ins import tiny_copy_scorer, tiny_saliency

pytestmark = [needs_miniature, pytest.mark.timeout(900)]

MISTAKES = ("no prior", "mixed subjects")
MAYBE = ("attention alone", "one background")  # whether they harm depends on the character
# The measures of a policy for SDXL that need optional scorers; their stand-ins know nothing, so the
# limits are wide.
OPTIONAL = {
    "replica": {"max": 1.1},
    "subject_crop": {"min": -1.0},
    "background": {"max_delta": 2.0},
}

Make = Callable[[str], Learnt]


@pytest.fixture(scope="module")
def make(hour: Path) -> Make:
    """Trains and judges the adapter of a kind once."""
    subject = subject_of_the_hour(hour)
    return lambda kind: learn(hour / kind.replace(" ", "-"), subject, kind)


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_not_accepted_and_a_refusal_names_its_reason(
    make: Make, kind: str, record_property: Callable[[str, object], None]
) -> None:
    made = make(kind)
    record_property(f"{made.subject.name}, {kind}", made.evaluation.reasons[0].partition(";")[0])
    require_not_accepted(made, kind, made.evaluation)


@pytest.mark.parametrize("kind", MAYBE)
def test_others_are_judged_by_what_was_really_learnt(
    make: Make, kind: str, record_property: Callable[[str, object], None]
) -> None:
    made = make(kind)
    record_property(f"{made.subject.name}, {kind}", require_oracle_agrees(made, kind))


def test_the_measures_of_a_real_base_change_nothing_about_it(
    make: Make, hour: Path, tmp_path: Path
) -> None:
    """The optional scorers are small stand-ins of the networks of a policy for SDXL."""
    made = make("no prior")
    said = made.policy.model_dump(mode="json", exclude_none=True)
    said["scorers"] |= {
        "copy": tiny_copy_scorer(tmp_path / "copy"),
        "saliency": tiny_saliency(tmp_path / "saliency"),
    }
    said["gates"] |= OPTIONAL
    judged = evaluate(
        made.package,
        Policy.model_validate(said),
        base=BASE,
        training_pictures=made.folder / PICTURES,
        output=tmp_path / "evaluation",
        cache=hour / "base-pictures",
    )
    found = {gate.name: gate for gate in judged.gates}
    assert all(found[name].passed and found[name].value is not None for name in OPTIONAL)
    require_not_accepted(made, "no prior", judged)


def require_not_accepted(made: Learnt, kind: str, judged: Evaluation) -> None:
    """The cause is one of those that the calibration allows for this kind.

    The limits are not calibrated yet: for some characters, all seeds of the policy leave it open.
    """
    assert judged.decision != "accepted", (made.subject.name, judged.reasons)
    if judged.decision == "refused":
        cause = judged.reasons[0].partition(":")[0]
        assert cause in KINDS[kind].causes, (made.subject.name, judged.reasons)
