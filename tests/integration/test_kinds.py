"""The usual mistakes, made with a character from the time of day: each is refused for its reason.

ATELIER_CHARACTER_SEED repeats a run.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from models.miniature.calibrate.kinds import KINDS
from tests.integration.character import learn, needs_miniature, subject_of_the_hour

pytestmark = [needs_miniature, pytest.mark.timeout(900)]


@pytest.mark.parametrize("kind", ["no prior", "attention alone", "mixed subjects"])
def test_a_mistake_is_refused_for_its_own_reason(
    kind: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    made = learn(tmp_path, subject_of_the_hour(), kind)
    cause = made.evaluation.reasons[0].partition(":")[0]
    record_property(f"{made.subject.name}, {kind}", f"{made.evaluation.decision}: {cause}")
    assert made.evaluation.decision == "refused", (made.subject.name, made.evaluation.reasons)
    assert cause in KINDS[kind].causes, (made.subject.name, made.evaluation.reasons)
