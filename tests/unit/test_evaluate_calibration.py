"""Limits come from one half of the subjects, and the error rates from the other."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from atelier.data.policy import Policy
from atelier.errors import BadInput
from commands.main import app
from pipelines.evaluate.calibration import Label, Labelled, check, choose, halves, load, report
from pipelines.evaluate.calibration.check import area
from pipelines.evaluate.calibration.limits import with_limits
from pipelines.evaluate.calibration.report import write_limits
from tests.judged import GOOD, evaluation, policy, replaced

UNDER = policy(
    seeds={"first": 4, "most": 16},
    gates={"subject": {"min": 0.1}, "drift": {"max": 0.9}, "effect": {"min": 0.01}},
)
# The means of each kind: subject and drift.
KINDS = {
    "good": (0.8, 0.1),
    "undertrained": (0.3, 0.05),
    "drifting": (0.75, 0.7),
}
CAUSES = {"undertrained": ("undertrained", "wrong subject"), "drifting": ("drift",)}


def labelled(group: int, kind: str, **changes: object) -> Labelled:
    draw = np.random.default_rng([group, len(kind)])
    subject, drift = KINDS[kind]
    one = evaluation(UNDER, subject=GOOD | {"diversity": 0.6}, seeds=16)
    for index, picture in enumerate(one.measures.pictures):
        if picture.role == "subject":
            one = replaced(one, index, subject=round(float(draw.normal(subject, 0.05)), 6))
        else:
            one = replaced(one, index, drift=round(float(draw.normal(drift, 0.03)), 6))
    said = {
        "group": f"cat {group}",
        "kind": kind,
        "label": "good" if kind == "good" else "bad",
        "causes": CAUSES.get(kind, ()),
    }
    return Labelled(f"{group}/{kind}", Label.model_validate(said | changes), one)


ADAPTERS = [labelled(group, kind) for group in range(8) for kind in KINDS]


def test_no_subject_is_in_both_halves_and_their_order_says_nothing() -> None:
    one, other = halves(ADAPTERS)
    assert not {i.label.group for i in one} & {i.label.group for i in other}
    assert len(one) == len(other) == 12
    again = halves(ADAPTERS[::-1])
    assert [sorted(i.name for i in half) for half in again] == [
        sorted(i.name for i in half) for half in (one, other)
    ]


def test_limits_are_between_the_good_and_the_bad_that_the_gate_is_for() -> None:
    chosen = {limit.name: limit for limit in choose(ADAPTERS, UNDER)}
    assert 0.5 < chosen["subject"].limit < 0.6
    assert {name.partition("/")[2] for name in chosen["subject"].refuses} == {"undertrained"}
    assert 0.35 < chosen["drift"].limit < 0.45
    assert {name.partition("/")[2] for name in chosen["drift"].refuses} == {"drifting"}
    # No bad adapter needs this gate, so it keeps the policy's limit.
    assert (chosen["effect"].limit, chosen["effect"].refuses) == (0.01, ())


def test_the_other_half_is_judged_rightly_and_for_the_right_reason() -> None:
    one, other = halves(ADAPTERS)
    under = with_limits(UNDER, choose(one, UNDER))
    found = check(other, under)
    assert found.wrong == found.undecided == 0
    assert found.confusion()["drifting", "bad"] == {"refused": 4}
    assert all(o.right_cause for o in found.outcomes if o.decision == "refused")
    assert {o.seeds for o in found.outcomes} == {4}


def test_wrong_limits_are_counted_as_errors() -> None:
    found = check(ADAPTERS, UNDER)  # the limits accept everything
    assert found.wrong == pytest.approx(2 / 3)
    page = report(UNDER, choose(ADAPTERS, UNDER), found, found)
    assert "Of 24 clear-cut adapters" in page and "16 bad ones accepted, 0 good ones" in page
    assert "| drifting | bad | 8 | 0 | 0 |" in page


def test_an_unclear_adapter_counts_neither_as_right_nor_as_wrong() -> None:
    unclear = labelled(9, "undertrained", label="unclear")
    found = check([*ADAPTERS, unclear], with_limits(UNDER, choose([*ADAPTERS, unclear], UNDER)))
    assert len(found.outcomes) == len(found.clear) + 1
    assert found.wrong == 0


def test_the_observed_error_of_the_intervals_is_near_the_stated_one() -> None:
    many = [labelled(group, kind) for group in range(100, 200) for kind in ("good", "drifting")]
    varying = {name: gate for name, gate in UNDER.gates.items() if name != "effect"}
    under = UNDER.model_copy(update={"gates": varying})
    found = {item.level: item for item in check(many, under).reliabilities if not item.rate}
    for level in (0.8, 0.9):
        assert found[level].pairs > 300
        assert abs(found[level].observed - found[level].stated) < 0.04


def test_the_area_is_the_chance_that_good_is_above_bad() -> None:
    assert area([3, 4], [1, 2]) == 1
    assert area([1], [1]) == 0.5
    assert area([1, 3], [2, 2]) == 0.5


def test_a_folder_is_read_and_what_is_wrong_in_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no label\.json below it"):
        load(tmp_path)
    for group in (1, 2):
        folder = tmp_path / f"cat {group}" / "good"
        folder.mkdir(parents=True)
        one = labelled(group, "good")
        one.evaluation.write(folder)
        (folder / "label.json").write_text(one.label.model_dump_json())
        if group == 1:
            with pytest.raises(BadInput, match="one group only"):
                load(tmp_path)
    found = load(tmp_path)
    assert [item.name for item in found] == ["cat 1/good", "cat 2/good"]
    assert found[0].evaluation == labelled(1, "good").evaluation
    (tmp_path / "cat 1/good/label.json").write_text(json.dumps({"group": "a", "kind": "b"}))
    with pytest.raises(BadInput, match=r"cat 1/good/label.json: label"):
        load(tmp_path)


def test_the_policy_file_gets_the_limits_and_keeps_its_comments(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    text = yaml.safe_dump(UNDER.model_dump(mode="json", exclude_none=True), sort_keys=False)
    file.write_text("# The operator's own words.\n" + text)
    chosen = choose(ADAPTERS, UNDER)
    write_limits(file, chosen, check(ADAPTERS, with_limits(UNDER, chosen)))
    written = file.read_text()
    assert written.startswith("# The operator's own words.\n")
    assert "# Calibrated. Of 24 clear-cut adapters" in written
    assert Policy.load(file).gates == with_limits(UNDER, chosen).gates
    write_limits(file, chosen, check(ADAPTERS, with_limits(UNDER, chosen)))
    assert file.read_text().count("Calibrated.") == 1


def test_labels_of_one_side_choose_nothing() -> None:
    with pytest.raises(BadInput, match="8 good and 0 bad"):
        choose([item for item in ADAPTERS if item.good], UNDER)


def test_the_command_writes_the_page_and_the_limits(tmp_path: Path) -> None:
    for item in ADAPTERS:
        folder = tmp_path / "adapters" / item.name
        folder.mkdir(parents=True)
        item.evaluation.write(folder)
        (folder / "label.json").write_text(item.label.model_dump_json())
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(UNDER.model_dump(mode="json", exclude_none=True)))
    said = ["calibrate", str(tmp_path / "adapters"), "--policy", str(file), "--write", "--json"]
    answer = CliRunner().invoke(app, [*said, "--report", str(tmp_path / "docs/page.md")])
    assert answer.exit_code == 0, answer.output
    told = json.loads(answer.stdout)
    assert (told["wrong"], told["adapters"]) == (0, 12)
    assert Policy.load(file).gates["subject"].min == told["limits"][0]["limit"]
    assert "| undertrained | bad | 0 | 4 | 0 |" in (tmp_path / "docs/page.md").read_text()
