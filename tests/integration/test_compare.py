"""`atelier compare`: runs, packages and versions on one page; recipes, pictures, scores."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from atelier.adapter.package import Package
from atelier.data.names import hex_of
from atelier.stores.registry import Registry
from commands.main import app
from pipelines.evaluate import FILE, attest
from tests.judged import drawn, evaluation, policy
from tests.unit.test_compare_runs import run_folder

SHORT = ("--steps", "2", "--prompt", "a {trigger}", "--seed", "3", "--seed", "4", "--json")
POLICY = policy()


def compare(base: Path, out: Path, *runs: object, options: tuple[str, ...] = ()) -> dict[str, Any]:
    words = [*map(str, runs), "--base", str(base), "--output", str(out), *SHORT, *options]
    done = CliRunner().invoke(app, ["compare", *words])
    assert done.exit_code == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def trained(folder: Path, package: Package, *, subject: float, **changes: object) -> Path:
    """The folder of a run whose package is this one, evaluated with a score of its own."""
    run_folder(folder, **changes)  # type: ignore[arg-type]
    shutil.copytree(package.path, folder / "package")
    (folder / "evaluation").mkdir()
    values = {"subject": subject, "text": 0.3, "copying": 0.5, "effect": 0.1}
    evaluation(POLICY, subject=values, digest=package.digest).write(folder / "evaluation")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "pages" / "compare"


def test_packages_are_drawn_from_the_same_noise_and_each_row_is_a_prompt_and_a_seed(
    tiny_model: Path, cats: list[Package], out: Path
) -> None:
    answer = compare(tiny_model, out, cats[0].path, cats[1].path, cats[2].path)
    names = [f"cat {hex_of(cat.digest)[:7]}" for cat in cats]
    assert answer["columns"] == ["base", *names]
    rows = answer["rows"]
    assert [(row["prompt"], row["seed"]) for row in rows] == [("a sks cat", 3), ("a sks cat", 4)]
    assert all(row["mean_difference"] > 0 for row in rows)
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width > 4 * 192 and sheet.height > 2 * 192
    page = (out / "compare.html").read_text()
    assert page.count("<img") == 2 * 4 and "http:" not in page and "https:" not in page
    assert "cannot be ranked" in answer["sentence"]


def test_an_adapter_beside_itself_is_the_same_picture_and_the_columns_are_told_apart(
    tiny_model: Path, cats: list[Package], out: Path
) -> None:
    answer = compare(tiny_model, out, cats[0].path, cats[0].path)
    columns, rows = answer["columns"], answer["rows"]
    assert columns[1].startswith("A: cat ") and columns[2].startswith("B: cat ")
    assert [row["mean_difference"] for row in rows] == [0.0, 0.0]


def test_a_run_and_a_version_are_compared_with_curves_recipes_and_stored_scores(
    tiny_model: Path,
    cats: list[Package],
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ATELIER_HOME", str(tmp_path / "home"))
    uri = f"sqlite:///{tmp_path}/home/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    registry = Registry(uri)
    for seed, (cat, subject) in enumerate(zip(cats[1:], (0.7, 0.8), strict=True)):
        run_id = registry.start_run("cat", f"run {seed}")
        registry.log_params(run_id, {"adapter": "cat", "train.steps": 20, "train.seed": seed})
        registry.end_run(run_id)
        version = registry.version("cat", registry.register(cat, run_id=run_id))
        values = {"subject": subject, "text": 0.3, "copying": 0.5, "effect": 0.1}
        judged = evaluation(POLICY, subject=values, adapter="cat", digest=cat.digest)
        attest(registry, version, drawn(judged, tmp_path / "drawn"), _written(judged, tmp_path))
    run = trained(tmp_path / "first", cats[0], subject=0.6)
    answer = compare(tiny_model, out, run, "cat@1")
    assert answer["columns"] == ["base", "first", "cat 1"]
    (rival,) = answer["comparisons"]
    subject = next(each for each in rival["measures"] if each["measure"] == "subject")
    assert (
        subject["difference"] == pytest.approx(0.1)
        and subject["word"] == "no difference told apart"
    )
    assert subject["scatter_included"]  # of the two trainings in the registry
    assert answer["scatter"]["subject"]["freedom"] == 1
    assert {"key": "train.steps", "values": ["10", "20"]} in answer["parameters"]
    page = (out / "compare.html").read_text()
    assert "2 trainings of the same recipes in the registry" in page and "<polyline" in page


def test_runs_without_scores_are_measured_under_the_policy_that_is_given(
    tiny_model: Path, cats: list[Package], out: Path, tmp_path: Path
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(POLICY.model_dump(mode="json", exclude_none=True)))
    runs = [
        trained(tmp_path / name, cat, subject=subject, **{"train.seed": seed})
        for name, cat, subject, seed in (("a", cats[0], 0.5, 0), ("b", cats[1], 0.6, 1))
    ]
    answer = compare(tiny_model, out, *runs, options=("--policy", str(file)))
    assert answer["policy"] == POLICY.digest and "repeats of one recipe" in answer["sentence"]
    shutil.rmtree(runs[1] / "evaluation")
    words = ["compare", *map(str, runs), "--policy", str(file), "--output", str(out), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and "recipe digest" in done.stdout  # which recipe made the package


@pytest.mark.parametrize("count", [1, 7])
def test_one_run_or_seven_are_refused(count: int) -> None:
    done = CliRunner().invoke(app, ["compare", *["x"] * count])
    assert done.exit_code == 2 and "two to 6" in done.stderr


def _written(judged: Any, folder: Path) -> Path:
    judged.write(folder / "drawn")
    assert (folder / "drawn" / FILE).is_file()
    return folder / "drawn"
