"""The operator's gates stand; a recipe may raise them, never lower them."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier.data.policy import DEFAULT, Gate, Policy
from atelier.errors import PolicyError

LEAST = """\
scorers: {clip: c, dino: d}
seeds: {first: 2, most: 8}
prompts: {subject: ["{trigger} here"], class: ["a {class}"], unrelated: ["a dog"]}
gates: {subject: {min: 0.6}, drift: {max: 0.25}, leak: {max: 0.3}, text: {min_delta: -0.03}}
"""


def load(folder: Path, text: str) -> Policy:
    (folder / "policy.yaml").write_text(text)
    return Policy.load(folder / "policy.yaml")


def test_the_default_comes_with_the_program() -> None:
    policy = Policy.load()
    assert policy == Policy.load(DEFAULT)
    assert {"subject", "text", "drift", "copying", "effect"} <= set(policy.gates)
    assert all("{trigger}" in prompt for prompt in policy.prompts.subject)
    assert not any("{trigger}" in prompt for prompt in policy.prompts.unrelated)
    assert all("{class}" in prompt for prompt in policy.prompts.class_)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("first: 2", "first: 1", "policy.yaml:2: seeds.first: "),
        ("most: 8", "most: 1", "seeds.most: "),
        ("first: 2", "first: 9", "seeds: most 8 must be at least first 9"),
        ("{trigger} here", "somewhere", "'somewhere' needs {trigger}"),
        ("a {class}", "a cat", "'a cat' needs {class}"),
        ("a dog", "a {class} dog", "'a {class} dog' must have no placeholder"),
        ('class: ["a {class}"], ', "", "gate leak needs at least one prompt in prompts.class"),
        ("drift: {max", "replica: {max", "gate replica needs scorers.copy; name one in the policy"),
        ("drift: {max", "together: {max", "gate together needs companions; name some in the"),
        ("drift: {max", "background: {max", "gate background needs scorers.saliency"),
        ("dino: d", "dino: d, copy: ''", "scorers.copy: "),
        ("dino: d", "dinp: d", "scorers.dinp: unknown key; did you mean dino?"),
        ("{trigger} here", "{tigger} here", "only {trigger} and {class} can be filled in"),
        ("{min: 0.6}", "{}", "gates.subject: a gate needs at least one of min, max"),
        ("{min: 0.6}", "{min: 0.6, max: 0.5}", "no value is both at least 0.6 and at most 0.5"),
        ("{min: 0.6}", "{min: high}", "gates.subject.min: must be a valid number, is 'high'"),
        ("gates:", "signature: enforce\ngates:", "signature: unknown key"),
        (
            "gates:",
            "against_serving: {drift: {max: 0.1}}\ngates:",
            "against_serving: drift.max: a comparison limits differences, so use max_delta",
        ),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load(tmp_path, LEAST.replace(old, new))
    assert told in str(caught.value)


def test_a_policy_says_how_far_a_candidate_may_fall_behind(tmp_path: Path) -> None:
    policy = load(tmp_path, f"{LEAST}against_serving: {{subject: {{min_delta: -0.1}}}}\n")
    assert policy.against_serving == {"subject": Gate(min_delta=-0.1)}
    tighter = policy.tightened({"subject": Gate(min=0.7, min_delta=-1.0)})
    assert tighter.against_serving == policy.against_serving  # a recipe's gates are others
    assert {"subject", "text", "drift"} == set(Policy.load().against_serving)


def test_tightening(tmp_path: Path) -> None:
    policy = load(tmp_path, LEAST)
    tighter = policy.tightened(
        {"subject": Gate(min=0.7, max=0.95), "text": Gate(min_delta=0.0), "effect": Gate(min=0.1)}
    )
    assert tighter.gates["subject"] == Gate(min=0.7, max=0.95)
    assert tighter.gates["text"] == Gate(min_delta=0.0)
    assert tighter.gates["effect"] == Gate(min=0.1)
    assert tighter.gates["drift"] == Gate(max=0.25)
    assert policy.gates["subject"] == Gate(min=0.6)
    assert tighter.digest != policy.digest
    assert policy.tightened({}).digest == policy.digest


def test_an_optional_scorer_brings_its_measures(tmp_path: Path) -> None:
    policy = load(tmp_path, LEAST)
    with pytest.raises(PolicyError, match=r"gates: gate face needs scorers\.face"):
        policy.tightened({"face": Gate(min=0.4)})  # a recipe cannot ask for it either
    more = load(tmp_path, LEAST.replace("dino: d", "dino: d, face: f, saliency: dino"))
    tighter = more.tightened({"face": Gate(min=0.4), "subject_crop": Gate(min=0.5)})
    assert tighter.gates["face"] == Gate(min=0.4)
    assert more.scorers.model_dump() == {
        "clip": "c",
        "dino": "d",
        "face": "f",
        "saliency": "dino",
    }
    assert policy.scorers.model_dump() == {"clip": "c", "dino": "d"}  # and its digest is as before
    assert Policy.model_validate(more.model_dump()) == more


@pytest.mark.parametrize(
    ("measure", "gate"),
    [
        ("subject", Gate(min=0.5)),
        ("drift", Gate(max=0.3)),
        ("text", Gate(min_delta=-0.1)),
        ("subject", Gate(max=0.5)),
    ],
)
def test_loosening_is_refused(tmp_path: Path, measure: str, gate: Gate) -> None:
    with pytest.raises(PolicyError, match=f"gates.{measure}: .*a recipe may only tighten"):
        load(tmp_path, LEAST).tightened({measure: gate})  # type: ignore[dict-item]


LIMITS = st.floats(-1, 1).map(lambda value: round(value, 3)) | st.none()
GATES = st.builds(lambda low, high: {"min": low, "max": high}, LIMITS, LIMITS).filter(
    lambda g: any(v is not None for v in g.values()) and not (
        g["min"] is not None and g["max"] is not None and g["min"] > g["max"]
    )
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(GATES, GATES, st.floats(-1, 1))
def test_what_passes_a_tightened_gate_passes_the_policys(
    mine: dict[str, float], theirs: dict[str, float], value: float
) -> None:
    def passes(gate: Gate) -> bool:
        low, high = gate.min, gate.max
        return (low is None or value >= low) and (high is None or value <= high)

    policy = Gate.model_validate(mine)
    try:
        tightened = policy.tightened(Gate.model_validate(theirs))
    except ValueError:
        return
    assert not passes(tightened) or (passes(policy) and passes(Gate.model_validate(theirs)))
