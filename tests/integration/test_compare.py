"""`atelier compare`: the same noise by the base and by two adapters, on one sheet."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from atelier.adapter.package import Package
from atelier.data.names import hex_of
from commands.main import app

SHORT = ("--steps", "2", "--prompt", "a {trigger}", "--seed", "3", "--seed", "4", "--json")


def compare(base: Path, first: Path, second: Path, out: Path) -> dict[str, object]:
    options = ["--base", str(base), "--out", str(out), *SHORT]
    done = CliRunner().invoke(app, ["compare", str(first), str(second), *options])
    assert done.exit_code == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "sheets" / "compare.png"


def test_two_adapters_differ_and_each_row_is_a_prompt_and_a_seed(
    tiny_model: Path, cats: list[Package], out: Path
) -> None:
    answer = compare(tiny_model, cats[0].path, cats[1].path, out)
    names = [f"cat {hex_of(cat.digest)[:7]}" for cat in cats[:2]]
    assert answer["columns"] == ["base", *names]
    rows = answer["rows"]
    assert isinstance(rows, list)
    assert [(row["prompt"], row["seed"]) for row in rows] == [("a sks cat", 3), ("a sks cat", 4)]
    assert all(row["mean_difference"] > 0 for row in rows)
    with Image.open(out) as sheet:
        assert sheet.width > 3 * 192 and sheet.height > 2 * 192


def test_an_adapter_beside_itself_is_the_same_picture_and_the_columns_are_told_apart(
    tiny_model: Path, cats: list[Package], out: Path
) -> None:
    answer = compare(tiny_model, cats[0].path, cats[0].path, out)
    columns, rows = answer["columns"], answer["rows"]
    assert isinstance(columns, list) and isinstance(rows, list)
    assert columns[1].startswith("A: cat ") and columns[2].startswith("B: cat ")
    assert [row["mean_difference"] for row in rows] == [0.0, 0.0]
