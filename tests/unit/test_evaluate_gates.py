"""A verdict follows from the numbers in evaluation.json and a policy, and from nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier.data.policy import Gate, Policy
from atelier.errors import BadInput, PolicyError, Refused
from pipelines.evaluate import Evaluation, verdict
from tests.judged import GOOD, evaluation, policy, replaced


def test_good_numbers_are_accepted_by_every_gate() -> None:
    said = verdict(evaluation(policy()), policy())
    assert said.accepted
    assert said.reasons == ("all 5 gates passed",)
    by_name = {gate.name: gate for gate in said.gates}
    assert by_name["subject"].value == pytest.approx(0.8)
    assert by_name["text"].value == pytest.approx(-0.01)  # less the base's
    assert by_name["drift"].value == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("bad", "gate", "word"),
    [
        ({"subject": 0.5}, "subject", "not recognised"),
        ({"text": 0.2}, "text", "no longer followed"),
        ({"copying": 0.95}, "copying", "is reproduced"),
        ({"effect": 0.0}, "effect", "changes nothing"),
    ],
)
def test_each_bad_number_fails_its_own_gate_and_says_why(
    bad: dict[str, float], gate: str, word: str
) -> None:
    said = verdict(evaluation(policy(), subject=GOOD | bad), policy())
    assert not said.accepted
    assert [one.name for one in said.gates if not one.passed] == [gate]
    assert len(said.reasons) == 1
    assert word in said.reasons[0]
    assert "pictures/subject-0-seed-" in said.reasons[0]


def test_drift_fails_on_the_unrelated_prompts_alone() -> None:
    one = replaced(evaluation(policy()), 2, drift=0.9)
    said = verdict(one, policy())
    failed = [gate for gate in said.gates if not gate.passed]
    assert [gate.name for gate in failed] == ["drift"]
    assert failed[0].pictures[0] == one.measures.pictures[2].picture  # the worst comes first
    assert "changes unrelated pictures" in said.reasons[0]


def test_one_copied_picture_is_enough_to_refuse() -> None:
    said = verdict(replaced(evaluation(policy()), 1, copying=0.97), policy())
    assert {gate.name: gate.value for gate in said.gates}["copying"] == pytest.approx(0.97)
    assert not said.accepted


def test_a_number_that_was_not_measured_fails() -> None:
    asks_diversity = policy(gates={"diversity": {"min": 0.05}})
    one = evaluation(asks_diversity, subject={k: v for k, v in GOOD.items() if k != "diversity"})
    said = verdict(one, asks_diversity)
    assert not said.accepted
    assert "two seeds" in said.reasons[0]


def test_a_recipes_own_gate_is_obeyed_where_it_is_stricter() -> None:
    stricter = {"subject": Gate(min=0.85)}
    assert not verdict(evaluation(policy(), recipe_gates=stricter), policy()).accepted
    # An environment that asks for more than the recipe did is obeyed as well.
    environment = policy(gates={"subject": {"min": 0.9}})
    said = verdict(evaluation(policy(), recipe_gates=stricter), environment)
    assert said.gates[0].threshold == pytest.approx(0.9)


def test_a_close_call_passes_and_says_so() -> None:
    one = replaced(evaluation(policy(), subject=GOOD | {"subject": 0.68}), 0, subject=0.55)
    said = verdict(one, policy())
    assert said.accepted
    assert any("crosses the limit" in reason for reason in said.reasons)


@pytest.mark.parametrize(
    ("environment", "word"),
    [
        (policy(steps=11), "steps"),
        (policy(scheduler="ddim"), "scheduler"),
        (policy(scorers={"clip": "other", "dino": "scorers/dino"}), "scorers"),
        (policy(seeds=[0, 1, 2]), "pictures"),
        (policy(prompts={"subject": ["{trigger}"], "unrelated": ["a dog"]}), "pictures"),
    ],
)
def test_numbers_of_another_procedure_are_refused(environment: Policy, word: str) -> None:
    with pytest.raises(Refused, match=word):
        verdict(evaluation(policy()), environment)


def test_a_picture_left_out_is_noticed() -> None:
    one = evaluation(policy())
    fewer = one.measures.model_copy(update={"pictures": one.measures.pictures[1:]})
    with pytest.raises(Refused, match="3 pictures"):
        verdict(one.model_copy(update={"measures": fewer}), policy())


def test_a_delta_to_the_base_needs_a_number_of_the_base() -> None:
    senseless = policy(gates={"drift": {"max_delta": 0.1}})
    with pytest.raises(PolicyError, match=r"gates\.drift\.max_delta"):
        verdict(evaluation(senseless), senseless)


def test_the_document_gives_the_same_verdict_when_read_again(tmp_path: Path) -> None:
    one = replaced(evaluation(policy()), 0, subject=0.123456)
    one.write(tmp_path)
    assert verdict(Evaluation.load(tmp_path), policy()) == verdict(one, policy())


def test_a_document_with_numbers_that_are_none_is_refused(tmp_path: Path) -> None:
    document = json.loads(evaluation(policy()).to_json())
    document["measures"]["pictures"][0]["values"]["subject"] = float("nan")
    (tmp_path / "evaluation.json").write_text(json.dumps(document))
    with pytest.raises(BadInput, match=r"evaluation\.json: measures\.pictures\.0"):
        Evaluation.load(tmp_path)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=2))
def test_the_interval_holds_the_value(values: list[float]) -> None:
    one = evaluation(policy())
    for index, value in enumerate(values):
        one = replaced(one, index, subject=round(value, 6))
    gate = next(gate for gate in verdict(one, policy()).gates if gate.name == "subject")
    assert gate.ci is not None
    assert gate.ci[0] - 1e-6 <= np.mean(values) <= gate.ci[1] + 1e-6
    assert verdict(one, policy()).gates == verdict(one, policy()).gates
