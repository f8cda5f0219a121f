"""`atelier declared`: what a workflow asks of main before it does what an old event wanted."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from atelier.data.declaration import Declaration, Declarations
from commands.main import app

HEX = "sha256:" + "0" * 64


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Declarations:
    (tmp_path / "k8s/environments/staging/adapters").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return Declarations(Path(), "staging")


def declared(*more: str) -> Result:
    words = ["declared", "thor-cat", "--environment", "staging", *more]
    return CliRunner().invoke(app, words)


def test_what_git_declares_is_said_and_told_to_the_next_steps(git: Declarations) -> None:
    git.put(Declaration(adapter="thor-cat", version=3, digest=HEX, base=HEX, reason="promoted"))
    Path("outputs").write_text("before=1\n")
    said = declared("--github-output", "outputs", "--json")
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["version"] == 3
    assert Path("outputs").read_text() == "before=1\ndeclared=true\n"


def test_what_is_gone_meanwhile_is_no_error(git: Declarations) -> None:
    said = declared("--github-output", "outputs")
    assert said.exit_code == 0, said.output
    assert f"{git.path('thor-cat')}: no such file" in said.output
    assert Path("outputs").read_text() == "declared=false\n"


def test_an_environment_that_is_not_there_is_bad_input(git: Declarations) -> None:
    said = CliRunner().invoke(app, ["declared", "thor-cat", "--environment", "moon"])
    assert said.exit_code == 2 and "no such environment; known are staging" in said.output
