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
from pipelines.evaluate.evaluation import GateResult
from pipelines.evaluate.prompt_set import prompt_set
from tests.judged import GOOD, evaluation, policy, replaced

WITH_CLASS = {
    "subject": ["{trigger} on the beach"],
    "class": ["a {class} on the beach"],
    "unrelated": ["a red robot"],
}


def failed(one: Evaluation, under: Policy) -> list[GateResult]:
    return [gate for gate in verdict(one, under).gates if gate.state == "failed"]


def test_good_numbers_are_accepted_by_every_gate() -> None:
    said = verdict(evaluation(policy()), policy())
    assert said.accepted
    assert said.reasons == ("all 5 gates passed",)
    by_name = {gate.name: gate for gate in said.gates}
    assert by_name["subject"].value == pytest.approx(0.8)
    assert by_name["text"].value == pytest.approx(-0.01)  # less the base's
    assert by_name["drift"].value == pytest.approx(0.1)


def test_a_subject_that_is_lost_beside_the_companions_is_refused() -> None:
    under = policy(companions=["ink@3", "thor-cat@1"], gates={"together": {"min": 0.5}})
    assert under.companions_of("thor-cat") == ("ink@3",)
    lost = evaluation(under, subject=GOOD | {"together": 0.3}, companions=("ink@3",))
    said = verdict(lost, under)
    assert said.decision == "refused"
    assert said.reasons[0].startswith("lost beside others: ")
    kept = evaluation(under, subject=GOOD | {"together": 0.6}, companions=("ink@3",))
    assert verdict(kept, under).accepted
    with pytest.raises(Refused, match="evaluated with companions"):
        verdict(evaluation(under, subject=GOOD | {"together": 0.6}), under)
    alone = policy(companions=["thor-cat@1"], gates={"together": {"min": 0.5}})
    assert verdict(evaluation(alone), alone).gates == ()  # its only companion is itself
    assert policy().digest != under.digest


@pytest.mark.parametrize(
    ("bad", "gate", "cause"),
    [
        ({"subject": 0.5}, "subject", "undertrained"),
        ({"subject": 0.5, "diversity": 0.1}, "subject", "undertrained"),
        ({"subject": 0.41, "diversity": 0.1}, "subject", "wrong subject"),
        ({"text": 0.2}, "text", "prompts not followed"),
        ({"copying": 0.95}, "copying", "copied"),
        ({"effect": 0.0}, "effect", "no effect"),
    ],
)
def test_each_bad_number_fails_its_own_gate_and_says_why(
    bad: dict[str, float], gate: str, cause: str
) -> None:
    one = evaluation(policy(), subject=GOOD | {"diversity": 0.6} | bad)
    said = verdict(one, policy())
    assert said.decision == "refused"
    assert [found.name for found in failed(one, policy())] == [gate]
    assert said.reasons[0].startswith(f"{cause}: ")
    assert len(said.reasons) == 2
    assert "pictures/subject-0-seed-" in said.reasons[1]


def test_drift_fails_on_the_unrelated_prompts_alone() -> None:
    one = replaced(replaced(evaluation(policy()), 2, drift=0.9), 3, drift=0.91)
    found = failed(one, policy())
    assert [gate.name for gate in found] == ["drift"]
    assert found[0].pictures[0] == one.measures.pictures[3].picture  # the worst comes first
    assert verdict(one, policy()).reasons[0].startswith("drift: ")


def test_a_lost_class_is_not_diluted_by_untouched_other_prompts() -> None:
    """The class drew another thing in each of its pictures, and twelve others stayed."""
    gates = {"class_drift": {"max": 0.6}, "leak": {"max": 0.4}, "drift": {"max": 0.5}}
    under = policy(gates=gates, prompts=WITH_CLASS | {"unrelated": ["a car", "a flower", "a boat"]})
    one = evaluation(under)
    for index, picture in enumerate(one.measures.pictures):
        if picture.role == "class":
            one = replaced(one, index, class_drift=1.07, leak=1.0)
    said = verdict(one, under)
    assert {gate.name for gate in failed(one, under)} == {"class_drift"}  # a rate needs more seeds
    assert said.reasons[0].startswith("class lost: ")


def test_one_copied_picture_is_enough_to_refuse() -> None:
    said = verdict(replaced(evaluation(policy()), 1, copying=0.97), policy())
    assert {gate.name: gate.value for gate in said.gates}["copying"] == pytest.approx(0.97)
    assert said.decision == "refused"


def test_a_number_that_was_not_measured_fails() -> None:
    asks_diversity = policy(gates={"diversity": {"min": 0.05}})
    one = evaluation(asks_diversity, subject={k: v for k, v in GOOD.items() if k != "diversity"})
    said = verdict(one, asks_diversity)
    assert said.decision == "refused"
    assert "two seeds" in said.reasons[1]


def test_mixed_pictures_are_named_before_what_follows_from_them() -> None:
    under = policy(gates={"consistency": {"min": 0.6}, "subject": {"min": 0.6}})
    one = evaluation(under, subject=GOOD | {"subject": 0.3})
    references = one.measures.references
    mixed = tuple(
        picture.model_copy(update={"values": {"consistency": value}})
        for picture, value in zip(references.pictures, (0.3, 0.1, 0.2), strict=True)
    )
    references = references.model_copy(update={"pictures": mixed})
    measures = one.measures.model_copy(update={"references": references})
    said = verdict(one.model_copy(update={"measures": measures}), under)
    assert said.reasons[0].startswith("mixed pictures: the training pictures show different")
    assert "worst: b.png" in said.reasons[1]


def test_a_mark_in_the_results_is_named_before_what_else_fails() -> None:
    under = policy(gates={"stamp": {"max": 0.5}, "copying": {"max": 0.9}})
    assert verdict(evaluation(under, subject=GOOD | {"stamp": 0.0}), under).accepted
    said = verdict(evaluation(under, subject=GOOD | {"stamp": 0.9, "copying": 0.95}), under)
    assert said.reasons[0].startswith("stamped: a mark that all training pictures share is in the")
    assert len(said.reasons) == 3


def test_few_references_are_remarked_upon() -> None:
    under = policy()
    one = evaluation(under)
    for held_back, fix in ((True, "raise dataset.hold_back"), (False, "add pictures")):
        two = {"pictures": one.measures.references.pictures[:2], "held_back": held_back}
        references = one.measures.references.model_copy(update=two)
        measures = one.measures.model_copy(update={"references": references})
        said = verdict(one.model_copy(update={"measures": measures}), under)
        assert said.accepted
        assert "only 2 reference pictures" in said.reasons[-1] and fix in said.reasons[-1]


def test_gates_of_the_class_do_not_apply_to_a_style() -> None:
    under = policy(prompts=WITH_CLASS, gates={"leak": {"max": 0.4}, "drift": {"max": 0.25}})
    style = evaluation(under, trigger="", noun="")
    kept = tuple(one for one in style.measures.pictures if one.role == "unrelated")
    asked = prompt_set(under, trigger="", noun="", seeds=range(2))
    subject = tuple(
        one.model_copy(update={"prompt": asked[0].prompt})
        for one in style.measures.pictures
        if one.role == "subject"
    )
    measures = style.measures.model_copy(update={"pictures": subject + kept})
    said = verdict(style.model_copy(update={"measures": measures}), under)
    assert said.accepted and [gate.name for gate in said.gates] == ["drift"]
    assert {gate.name for gate in verdict(evaluation(under), under).gates} == {"leak", "drift"}


def test_one_reference_has_no_consistency_and_is_a_remark() -> None:
    under = policy(gates={"consistency": {"min": 0.6}, "effect": {"min": 0.01}})
    one = evaluation(under)
    single = one.measures.references.model_copy(
        update={"pictures": one.measures.references.pictures[:1]}
    )
    measures = one.measures.model_copy(update={"references": single})
    said = verdict(one.model_copy(update={"measures": measures}), under)
    assert said.accepted and [gate.name for gate in said.gates] == ["effect"]
    assert "only 1 reference pictures" in said.reasons[1]


def test_a_recipes_own_gate_is_obeyed_where_it_is_stricter() -> None:
    stricter = {"subject": Gate(min=0.85)}
    assert not verdict(evaluation(policy(), recipe_gates=stricter), policy()).accepted
    # An environment that asks for more than the recipe did is obeyed as well.
    environment = policy(gates={"subject": {"min": 0.9}})
    said = verdict(evaluation(policy(), recipe_gates=stricter), environment)
    assert said.gates[0].threshold == pytest.approx(0.9)


@pytest.mark.parametrize("second", [0.55, 0.68])
def test_a_value_whose_interval_crosses_the_limit_decides_nothing(second: float) -> None:
    """Above the limit as below it: two pictures are too few to tell."""
    one = replaced(evaluation(policy(), subject=GOOD | {"subject": 0.62}), 0, subject=second)
    said = verdict(one, policy())
    assert said.decision == "undecided" and not said.accepted
    assert said.reasons[0].startswith("not enough evidence: 1 of 5 gates are open with 2 seeds")
    assert "pictures/subject-0-seed-" in said.reasons[1]


def test_more_seeds_decide() -> None:
    under = policy(seeds={"first": 2, "most": 32}, gates={"subject": {"min": 0.6}})
    values = [0.7 + 0.1 * (-1) ** index for index in range(32)]
    decisions = []
    for seeds in under.seeds.looks:
        one = evaluation(under, seeds=seeds)
        for index in range(seeds):
            one = replaced(one, index, subject=values[index])
        decisions.append(verdict(one, under).decision)
    assert under.seeds.looks == (2, 4, 8, 16, 32)
    assert decisions[0] == "undecided" and decisions[-1] == "accepted"


def test_a_narrow_pass_is_marked() -> None:
    under = policy(gates={"subject": {"min": 0.6}})
    one = replaced(evaluation(under, subject=GOOD | {"subject": 0.6007}), 0, subject=0.6008)
    (gate,) = verdict(one, under).gates
    assert (gate.state, gate.mark) == ("passed", "passed narrowly")
    assert "narrowly" in verdict(one, under).reasons[1]


def test_the_worst_prompt_has_a_limit_of_its_own() -> None:
    prompts = {"subject": [f"{{trigger}} {n}" for n in range(4)], "unrelated": ["a red robot"]}
    under = policy(prompts=prompts, gates={"subject": {"min": 0.3, "min_worst": 0.3}})
    one = evaluation(under)
    for index, value in enumerate((0.47, 0.48, 0.47, 0.46, 0.48, 0.47, 0.1, 0.11)):
        one = replaced(one, index, subject=value)
    (gate,) = failed(one, under)
    assert gate.kind == "min_worst"
    assert set(gate.pictures) == {p.picture for p in one.measures.pictures[6:8]}
    assert "for the worst prompt" in verdict(one, under).reasons[1]


@pytest.mark.parametrize(
    ("environment", "word"),
    [
        (policy(steps=11), "steps"),
        (policy(scheduler="ddim"), "scheduler"),
        (policy(scorers={"clip": "other", "dino": "scorers/dino"}), "scorers"),
        (policy(seeds={"first": 3, "most": 6}), "pictures"),
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


@pytest.mark.parametrize(
    ("gates", "place"),
    [
        ({"drift": {"max_delta": 0.1}}, r"gates\.drift\.max_delta: .* use max"),
        ({"copying": {"max_worst": 0.1}}, r"gates\.copying\.max_worst: .* use max"),
        ({"consistency": {"min_worst": 0.1}}, r"gates\.consistency\.min_worst: .* use min"),
    ],
)
def test_a_limit_that_a_measure_does_not_have_is_refused(
    gates: dict[str, dict[str, float]], place: str
) -> None:
    senseless = policy(gates=gates)
    with pytest.raises(PolicyError, match=place):
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
