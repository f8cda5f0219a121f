"""Two versions on the same seeds: what the numbers say, whatever order they are written in."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier.errors import Refused
from pipelines.evaluate import Evaluation, compare
from pipelines.evaluate.comparison import Difference
from pipelines.evaluate.prompt_set import prompt_set
from tests.judged import GOOD, evaluation, policy, replaced

POLICY = policy(
    seeds={"first": 4, "most": 8},
    against_serving={
        "subject": {"min_delta": -0.05},
        "drift": {"max_delta": 0.05},
        "copying": {"max_delta": 0.1},
    },
)
NUMBERS = st.lists(st.floats(0, 1, width=32), min_size=8, max_size=8)


def by_name(candidate: Evaluation, serving: Evaluation) -> dict[str, Difference]:
    return {one.name: one for one in compare(candidate, serving, POLICY).differences}


def numbered(values: list[float], **changes: object) -> Evaluation:
    """Four subject pictures and four others, each with a number of its own."""
    made = evaluation(POLICY, **changes)  # type: ignore[arg-type]
    for index, value in enumerate(values):
        if index < 4:
            made = replaced(made, index, subject=value, text=value / 2, copying=1 - value)
        else:
            made = replaced(made, index, drift=value)
    return made


@given(NUMBERS)
def test_equal_versions_differ_by_nothing(values: list[float]) -> None:
    said = compare(numbered(values), numbered(values), POLICY)
    assert said.accepted and said.reasons == said.remarks == ()
    assert {one.name for one in said.differences} == {
        "subject",
        "text",
        "drift",
        "copying",
        "effect",
    }
    assert all(one.delta == 0 for one in said.differences)
    assert {one.ci for one in said.differences if one.name != "copying"} == {(0, 0)}
    assert {one.word for one in said.differences} == {"no difference told apart"}


@given(NUMBERS, NUMBERS, st.randoms(use_true_random=False))
def test_the_order_of_the_pictures_says_nothing(
    ours: list[float], theirs: list[float], chance: random.Random
) -> None:
    candidate, serving = numbered(ours), numbered(theirs)
    pictures = list(candidate.measures.pictures)
    chance.shuffle(pictures)
    measures = candidate.measures.model_copy(update={"pictures": tuple(pictures)})
    shuffled = candidate.model_copy(update={"measures": measures})
    assert compare(shuffled, serving, POLICY) == compare(candidate, serving, POLICY)


@given(NUMBERS, NUMBERS)
def test_swapped_versions_differ_the_other_way(ours: list[float], theirs: list[float]) -> None:
    forth, back = (
        by_name(*two)
        for two in ((numbered(ours), numbered(theirs)), (numbered(theirs), numbered(ours)))
    )
    for name, one in forth.items():
        other = back[name]
        assert one.delta == pytest.approx(-other.delta, abs=2e-6)
        if one.ci is not None and other.ci is not None:
            assert one.ci == pytest.approx((-other.ci[1], -other.ci[0]), abs=2e-6)
        else:
            assert name == "copying"  # its largest value has no interval
        opposite = {"better": "worse", "worse": "better"}
        assert other.word == opposite.get(one.word, one.word)


def test_pairing_tells_what_two_means_alone_could_not() -> None:
    """Prompts differ by far more than the versions do, and each prompt by the same amount."""
    serving = numbered([0.3, 0.5, 0.7, 0.9, 0.1, 0.1, 0.1, 0.1])
    candidate = numbered([0.32, 0.52, 0.72, 0.92, 0.1, 0.1, 0.1, 0.1])
    found = by_name(candidate, serving)
    assert found["subject"].delta == pytest.approx(0.02)
    assert found["subject"].ci == pytest.approx((0.02, 0.02))
    assert found["subject"].word == "better"
    assert found["text"].word == "better"
    assert found["drift"].word == "no difference told apart"


def test_a_measure_that_is_good_neither_high_nor_low_is_only_other() -> None:
    candidate = evaluation(POLICY, subject=GOOD | {"effect": 0.2})
    assert by_name(candidate, evaluation(POLICY))["effect"].word == "other"


def test_worse_than_the_policy_allows_is_refused_with_a_reason() -> None:
    serving = evaluation(POLICY)
    candidate = replaced(evaluation(POLICY, subject=GOOD | {"subject": 0.7}), 2, subject=0.6)
    said = compare(candidate, serving, POLICY)
    assert not said.accepted
    (reason,) = said.reasons
    assert "subject fidelity (DINO) is 0.675, 0.125 lower" in reason
    assert "serving version (0.800); 0.050 is allowed" in reason and "4 pairs" in reason
    assert "worst of the stored pictures: pictures/subject-0-seed-0.png" in reason
    drifted = compare(replaced(evaluation(POLICY), 5, drift=0.9), serving, POLICY)
    assert [gate.name for gate in drifted.gates if not gate.passed] == ["drift"]
    assert "higher than for the serving version" in drifted.reasons[0]
    assert "worst of the stored pictures: pictures/unrelated-0-seed-0.png" in drifted.reasons[0]
    assert compare(serving, candidate, POLICY).accepted


def test_what_was_not_measured_cannot_be_compared_and_fails() -> None:
    without = {name: value for name, value in GOOD.items() if name != "subject"}
    said = compare(evaluation(POLICY, subject=without), evaluation(POLICY), POLICY)
    assert not said.accepted and "could not be compared" in said.reasons[0]


def test_versions_with_different_triggers_are_paired_by_the_templates() -> None:
    serving = evaluation(POLICY)
    prompts = [
        shot.prompt for shot in prompt_set(POLICY, trigger="zwx cat", noun="cat", seeds=range(4))
    ]
    pictures = tuple(
        one.model_copy(update={"prompt": prompt})
        for one, prompt in zip(serving.measures.pictures, prompts, strict=True)
    )
    measures = serving.measures.model_copy(update={"pictures": pictures})
    candidate = serving.model_copy(update={"trigger": "zwx cat", "measures": measures})
    said = compare(candidate, serving, POLICY)
    assert said.accepted and len(said.differences[0].pictures) == 4
    assert said.remarks == (
        "the candidate was prompted with another trigger or class than the serving version",
    )


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"scorers": {"clip": "other", "dino": "scorers/dino"}}, "scorers"),
        ({"scorer_digests": {"dino": "sha256:" + "1" * 64}}, "files of a scorer"),
    ],
)
def test_numbers_of_another_procedure_are_refused(changes: dict[str, object], word: str) -> None:
    with pytest.raises(Refused, match=word):
        compare(evaluation(POLICY), evaluation(POLICY).model_copy(update=changes), POLICY)
    with pytest.raises(Refused, match="evaluate it again"):
        compare(evaluation(policy()), evaluation(POLICY), POLICY)
