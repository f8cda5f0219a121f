"""What is read of a run, which runs are repeats, and which keys of their recipes differ."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from atelier.errors import BadInput
from pipelines.compare.parameters import grouped, parameter_rows
from pipelines.compare.runs import RunRecord, labelled, run_in_folder

PARAMS = {"adapter": "cat", "lora.rank": 4, "train.steps": 10, "train.seed": 0}
TAGS = {"atelier.base": "sha256:" + "b" * 64, "atelier.dataset": "sha256:" + "d" * 64}


def run_folder(folder: Path, *, tags: dict[str, str] = TAGS, **changes: object) -> Path:
    """A run that has not finished, as a training leaves it behind."""
    events: list[tuple[str, dict[str, Any]]] = [("params", PARAMS | changes), ("tags", tags)]
    events += [
        ("metrics", {"step": step, "values": {"loss": 1 / step, "seconds_per_step": 0.5}})
        for step in range(1, 5)
    ]
    events.append(("metrics", {"step": 4, "values": {"judge/subject": 0.5}}))
    lines = [
        json.dumps({"number": number, "time": 0.0, "kind": kind, "data": data})
        for number, (kind, data) in enumerate(events)
    ]
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text("\n".join(lines) + '\n{"number": 7, "ti')
    (folder / "run.json").write_text("{}")
    return folder


def record(label: str = "run", **changes: object) -> RunRecord:
    params = {key: str(value) for key, value in (PARAMS | changes).items()}
    lineage = {"base digest": "sha256:b", "dataset digest": "sha256:d", "commit": label}
    return RunRecord(label, params, lineage, {}, None)


def members(runs: Iterable[RunRecord]) -> list[tuple[int, ...]]:
    return [group.runs for group in grouped(list(runs))]


def test_an_unfinished_run_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    run = run_in_folder(run_folder(tmp_path / "first"))
    assert (run.label, run.seed, run.adapter, run.evaluations) == ("first", "0", None, ())
    assert run.params["lora.rank"] == "4"
    assert run.lineage == {
        "base digest": TAGS["atelier.base"],
        "dataset digest": TAGS["atelier.dataset"],
    }
    assert set(run.metrics) == {"loss", "judge/subject"}
    assert run.metrics["loss"].steps == (1, 2, 3, 4)
    assert run.metrics["loss"].values[1] == 0.5


def test_a_folder_that_is_neither_run_nor_package_is_refused_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="NAME@VERSION"):
        run_in_folder(tmp_path)


def test_runs_that_differ_in_the_seed_alone_are_repeats() -> None:
    runs = [record("a"), record("b", **{"train.steps": 20}), record("c", **{"train.seed": 1})]
    assert members(runs) == [(0, 2), (1,)]
    assert [group.label for group in grouped(runs)] == ["a with 1 repeat", "b"]


def test_tracking_is_no_part_of_a_recipe_and_the_dataset_is() -> None:
    other = record("b", **{"train.seed": 1, "tracking.mlflow": False})
    assert members([record("a"), other]) == [(0, 1)]
    of_other_pictures = RunRecord(
        "b", other.params, {**other.lineage, "dataset digest": "sha256:e"}, {}, None
    )
    assert members([record("a"), of_other_pictures]) == [(0,), (1,)]


def test_the_same_training_twice_is_no_repeat() -> None:
    assert members([record("a"), record("b"), record("c", **{"train.seed": 1})]) == [(0, 2), (1,)]


def test_packages_without_their_runs_are_never_repeats() -> None:
    """A manifest names neither the seed nor the whole recipe."""
    bare = RunRecord("a", {"adapter": "cat"}, {}, {}, None)
    assert members([bare, bare.with_label("b")]) == [(0,), (1,)]


def test_differences_are_marked_and_a_missing_key_is_one() -> None:
    rows = {
        row.key: row for row in parameter_rows([record("a"), record("b", **{"prior.images": 8})])
    }
    assert rows["prior.images"].values == (None, "8") and rows["prior.images"].differs
    assert rows["commit"].differs and not rows["train.steps"].differs
    assert list(rows)[:3] == ["base digest", "dataset digest", "commit"]


def test_equal_labels_get_letters() -> None:
    labels = [run.label for run in labelled([record("x"), record("y"), record("x")])]
    assert labels == ["A: x", "y", "C: x"]
