"""`atelier lint`: recipes and their pictures, as a person and as Actions are told."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from commands.main import app
from tests.repository import Scratch

THOR = Path(__file__).resolve().parents[2] / "examples" / "thor-cat"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one good adapter."""
    shutil.copytree(THOR, tmp_path / "adapters" / "thor-cat")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    return tmp_path


def lint(*words: str) -> Result:
    return CliRunner().invoke(app, ["lint", *words])


def test_a_good_recipe_passes_with_its_remarks(root: Path) -> None:
    result = lint()
    assert result.exit_code == 0
    assert result.stdout.endswith("1 recipe: 0 errors\n") and "warning: " in result.stdout


def test_every_mistake_of_every_recipe_is_told_at_once(root: Path) -> None:
    shutil.copytree(THOR, root / "adapters" / "twin")  # for the same adapter
    bad = root / "adapters" / "bad"
    bad.mkdir()
    text = (THOR / "recipe.yaml").read_text().replace("adapter: thor-cat", "adapter: rex")
    (bad / "recipe.yaml").write_text(text)  # and no pictures
    result = lint("--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)["recipes"]
    assert {name for name, findings in found.items() if findings[0]["severity"] == "error"} == {
        f"adapters/{name}/recipe.yaml" for name in ("bad", "thor-cat", "twin")
    }


def test_look_alikes_are_checked_as_pictures_are(root: Path) -> None:
    folder = root / "adapters" / "thor-cat"
    assert lint().exit_code == 0
    shutil.copy(folder / "images/01-beach.png", folder / "look-alikes/twin.png")
    (folder / "look-alikes/cut.png").write_bytes((folder / "images/01-beach.png").read_bytes()[:99])
    result = lint()
    assert result.exit_code == 1
    assert "look-alikes/twin.png: is both a training picture and a look-alike" in result.stdout
    assert "look-alikes/cut.png: " in result.stdout
    shutil.rmtree(folder / "look-alikes")
    result = lint()
    assert result.exit_code == 1
    assert "look-alikes: no such folder; correct `look_alikes` in the recipe" in result.stdout


def test_a_summary_is_added_to_and_follows_no_markdown_of_others(root: Path) -> None:
    recipe = root / "adapters" / "thor-cat" / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "'`</code>[x](http://evil.example)': 1\n")
    files = [root / "one.md", root / "two.md"]
    files[0].write_text("before\n")
    result = lint("--summary", str(files[0]), "--summary", str(files[1]))
    assert result.exit_code == 1
    first, second = (file.read_text() for file in files)
    assert first == "before\n" + second
    assert "### ❌ `adapters/thor-cat/recipe.yaml`" in second
    (line,) = [one for one in second.splitlines() if "evil" in one]
    assert line.count("`") == 4  # around the file and the text, none within


def test_actions_shows_a_mistake_beside_its_line(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = root / "adapters" / "a, b: 100%"
    (root / "adapters" / "thor-cat").rename(folder)
    text = (folder / "recipe.yaml").read_text()
    line = next(n for n, one in enumerate(text.splitlines(), 1) if "rank:" in one)
    (folder / "recipe.yaml").write_text(text.replace("rank:", "rnak:"))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    (told,) = [one for one in lint().stdout.splitlines() if one.startswith("::error")]
    place, _, message = told.removeprefix("::error ").partition("::")
    assert place == f"file=adapters/a%2C b%3A 100%25/recipe.yaml,line={line}"
    assert "did you mean rank?" in message and "100%25" in message


def test_only_what_changed_since_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = Scratch.make(tmp_path / "repository")
    scratch.recipe("old", "old-one")
    before = scratch.commit()
    scratch.recipe("new", "new-one")
    scratch.commit()
    monkeypatch.chdir(scratch.root / "adapters")
    found = json.loads(lint("--since", before, "--json").stdout)["recipes"]
    assert list(found) == ["new/recipe.yaml"]
