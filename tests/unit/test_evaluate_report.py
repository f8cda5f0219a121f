"""The report is one page with everything in it, the worst first."""

import re
from pathlib import Path

import pytest
from PIL import Image

from atelier.adapter.package import Package
from atelier.data.manifest import Manifest
from pipelines.evaluate import GateResult, verdict
from pipelines.evaluate.bar import GateBar
from pipelines.evaluate.measures import Pair, ReferenceSet
from pipelines.evaluate.prompt_set import prompt_set
from pipelines.evaluate.report import EvaluationReport
from tests.judged import GOOD, NOUN, TRIGGER, evaluation, policy
from tests.promoted import package

PROMPTS = {
    "subject": ["{trigger} on the <beach>", "{trigger} at night"],
    "class": ["a {class} in a room"],
    "unrelated": ["a red robot"],
}
GATES = {
    "consistency": {"min": 0.6},
    "subject": {"min": 0.6, "min_delta": 0.05},
    "class_drift": {"max": 0.5},
    "copying": {"max": 0.9},
}


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    made: Package = package(tmp_path / "package", "thor-cat", 1)
    return made.manifest


def report(manifest: Manifest, **subject: float) -> EvaluationReport:
    under = policy(prompts=PROMPTS, gates=GATES)
    one = evaluation(under, subject=GOOD | subject)
    references = one.measures.references.model_copy(update={"likeness": {"subject": 0.91}})
    pictures = tuple(
        item.model_copy(update={"nearest": "a.png"} if item.role == "subject" else {})
        for item in one.measures.pictures
    )
    measures = one.measures.model_copy(update={"references": references, "pictures": pictures})
    one = one.model_copy(update={"measures": measures})
    said = verdict(one, under)
    one = one.model_copy(
        update={"gates": said.gates, "decision": said.decision, "reasons": said.reasons}
    )
    cases = prompt_set(under, trigger=TRIGGER, noun=NOUN, seeds=range(2))
    plain = Image.new("RGB", (1024, 1024), (200, 0, 0))
    pairs = [Pair(case, plain, Image.new("RGB", (64, 64))) for case in cases]
    training = [Image.new("RGB", (64, 64), (0, 0, 200))] * 2
    shown = ReferenceSet(
        one.base, training, ["a.png", "b.png"], training, ["a.png", "b.png"], [one.base] * 2, False
    )
    return EvaluationReport(one, manifest, pairs, shown)


def test_the_page_needs_nothing_else_and_escapes_what_others_wrote(manifest: Manifest) -> None:
    page = report(manifest).html()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "on the &lt;beach&gt;" in page and "<beach>" not in page
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page
    assert len(page) < 500_000, "pictures of the report are small"


def test_it_tells_the_verdict_the_ceiling_and_the_lineage(manifest: Manifest) -> None:
    accepted = report(manifest).html()
    assert ">accepted</span>" in accepted and "all 5 gates passed" in accepted
    assert "0.910, the likeness of the reference pictures" in accepted
    assert manifest.base.digest in accepted
    refused = report(manifest, subject=0.3).html()
    assert ">refused</span>" in refused and "wrong subject: the pictures show" in refused


def test_what_failed_comes_first_with_its_worst_pictures(manifest: Manifest) -> None:
    made = report(manifest, copying=0.95)
    first = made.cards()[0]
    assert first.name == "copying" and first.lines[0].tone == "bad"
    assert {figure.other_name for figure in first.figures} == {"training picture"}
    cards = {card.name: card for card in made.cards()}
    assert set(cards) == set(GATES)
    assert [line.gate.kind for line in cards["subject"].lines] == ["min", "min_delta"]
    assert cards["subject"].figures[0].note == "subject 0.800, base 0.400"
    assert cards["consistency"].figures[0].other is None  # a reference has no twin
    assert cards["subject"].lines[1].bar.ceiling is None  # of the value, not of the difference


def test_plain_pictures_of_the_class_are_always_shown(manifest: Manifest) -> None:
    assert [figure.caption for figure in report(manifest).plain()] == [
        "a cat in a room, seed 0",
        "a cat in a room, seed 1",
    ]


def gate(**changes: object) -> GateResult:
    said = {
        "name": "subject", "kind": "min", "value": 0.7, "threshold": 0.5, "ci": (0.6, 0.8),
        "state": "passed", "pictures": (),
    }  # fmt: skip
    return GateResult.model_validate(said | changes)


def test_a_bar_has_every_number_in_order_between_its_ends() -> None:
    bar = GateBar.of(gate(), ceiling=0.9)
    assert bar.interval is not None and bar.value is not None and bar.ceiling is not None
    end = bar.interval[0] + bar.interval[1]
    assert 0 < bar.limit < bar.interval[0] < bar.value < end < bar.ceiling < 100
    assert bar.good == (bar.limit, 100 - bar.limit)
    assert GateBar.of(gate(kind="max")).good[0] == 0


def test_a_gate_without_a_value_has_a_bar_too() -> None:
    bar = GateBar.of(gate(value=None, ci=None, state="failed"))
    assert (bar.limit, bar.value, bar.interval) == (50.0, None, None)
