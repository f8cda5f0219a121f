"""The score of a checkpoint: the policy's gates as one number."""

import math

import pytest

from atelier.data.policy import Policy
from pipelines.evaluate.along import margins, score
from pipelines.evaluate.evaluation import Measures
from tests.judged import GOOD, OF_ROLE, evaluation, policy

GATES = {
    "consistency": {"min": 0.95},  # of the training pictures, which no checkpoint changes
    "subject": {"min": 0.5},
    "class_drift": {"max": 0.5},
    "text": {"min_delta": -0.2},
    "copying": {"max": 0.9},
    "diversity": {"min": 0.1},
    "drift": {"max": 0.0001},  # of prompts that a checkpoint is not asked
}
PROMPTS = {
    "subject": ["{trigger} on the beach", "{trigger} at night"],
    "class": ["a photo of a {class}"],
    "unrelated": ["a red robot"],
}


def under(**gates: object) -> Policy:
    return policy(prompts=PROMPTS, gates=GATES | gates)


def measured(class_drift: float = 0.25, **subject: float) -> Measures:
    """The measures of a checkpoint, without unrelated prompts."""
    whole = evaluation(under(), subject=GOOD | subject).measures
    asked = [picture for picture in whole.pictures if picture.role != "unrelated"]
    of_class = OF_ROLE["class"] | {"class_drift": class_drift}
    pictures = tuple(
        picture.model_copy(update={"values": of_class}) if picture.role == "class" else picture
        for picture in asked
    )
    return whole.model_copy(update={"pictures": pictures})


def test_a_margin_is_the_distance_from_the_limit_by_its_size() -> None:
    found = margins(measured(subject=0.75, text=0.21, copying=0.99, diversity=0.5), under().gates)
    assert found == {
        ("subject", "min"): pytest.approx(0.5),
        ("text", "min_delta"): pytest.approx(0.5),  # 0.1 below the base, of 0.2 allowed
        ("class_drift", "max"): pytest.approx(0.5),
        ("copying", "max"): pytest.approx(-0.1),
        ("diversity", "min"): 0.0,  # a guard: more is not better
    }


def test_a_limit_of_zero_has_a_margin_too() -> None:
    limit = under(class_drift={"max": 0.0})
    assert score(measured(class_drift=0.25), limit).margin == pytest.approx(-0.25)


def test_the_worst_gate_is_the_score() -> None:
    assert score(measured(subject=0.6, class_drift=0.1), under()).margin == pytest.approx(0.2)
    assert score(measured(subject=0.9, class_drift=0.45), under()).margin == pytest.approx(0.1)
    assert score(measured(copying=0.99), under()).margin == pytest.approx(-0.1)


def test_less_copying_is_not_better_once_it_passes() -> None:
    little, much = (score(measured(copying=value), under()) for value in (0.1, 0.89))
    assert (little.margin, little.total) == (much.margin, much.total)


def test_all_gates_passed_beat_any_failure() -> None:
    barely = score(measured(subject=0.501, class_drift=0.499, text=0.111), under())
    excellent_but_copied = score(measured(subject=1.0, class_drift=0.0, copying=0.901), under())
    assert barely.margin >= 0 > excellent_but_copied.margin
    only_guards = score(measured(), policy(prompts=PROMPTS, gates={"copying": {"max": 0.9}}))
    assert only_guards.margin == 0


def test_the_sum_tells_apart_what_the_worst_gate_does_not() -> None:
    one, other = (score(measured(subject=0.6, text=text), under()) for text in (0.31, 0.25))
    assert one.margin == other.margin
    assert one.total > other.total


def test_one_lost_prompt_counts_where_the_policy_limits_the_worst() -> None:
    whole = measured(subject=0.9)
    lost = [
        picture.model_copy(update={"values": picture.values | {"subject": 0.3}})
        if picture.prompt.endswith("night")
        else picture
        for picture in whole.pictures
    ]
    mixed = whole.model_copy(update={"pictures": tuple(lost)})
    assert score(mixed, under()).margin > 0  # the mean is 0.6
    strict = under(subject={"min": 0.5, "min_worst": 0.4})
    assert score(mixed, strict).margin < 0


def test_the_curve_shows_what_is_gated_and_what_is_always_asked() -> None:
    values = score(measured(), under()).values
    assert set(values) == {"subject", "text", "class_drift", "leak", "copying", "diversity"}
    assert values["subject"] == 0.8
    assert all(math.isfinite(value) for value in values.values())


def test_equal_measures_give_equal_scores() -> None:
    assert score(measured(subject=0.7), under()) == score(measured(subject=0.7), under())
