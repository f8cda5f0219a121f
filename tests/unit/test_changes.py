"""What a push asks for, read from real commits."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from commands.main import app
from tests.repository import Scratch

NOTHING = "0" * 40  # what GitHub names as the commit before a branch's first
LISTS = ("train", "removed", "promote", "retire")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scratch:
    made = Scratch.make(tmp_path / "with a space")
    made.recipe("cat", "thor-cat")
    made.recipe("hand", "thumbs-up")
    made.declare("staging", "thor-cat")
    made.commit()
    monkeypatch.chdir(made.root)
    return made


def asked(since: str, *more: str) -> Result:
    return CliRunner().invoke(app, ["changed", "--since", since, "--json", *more])


def lists(since: str, *more: str) -> dict[str, list[Any]]:
    """What is to be done, in few words; lists that are empty are left out."""
    result = asked(since, *more)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    return {name: [tuple(one.values()) for one in found[name]] for name in LISTS if found[name]}


def test_nothing_to_do_where_nothing_of_ours_changed(scratch: Scratch) -> None:
    before = scratch.git("rev-parse", "HEAD")
    scratch.write("README.md", "hello")
    scratch.write("k8s/environments/staging/platform.yaml", "environment: staging")
    scratch.commit()
    assert lists(before) == {}


def test_a_new_recipe_and_a_changed_picture_are_trained(scratch: Scratch) -> None:
    before = scratch.git("rev-parse", "HEAD")
    scratch.recipe("dog", "rex")
    scratch.write("adapters/hand/images/02.png", "another")
    scratch.commit()
    assert lists(before) == {
        "train": [
            ("rex", "adapters/dog/recipe.yaml"),
            ("thumbs-up", "adapters/hand/recipe.yaml"),
        ]
    }


def test_several_commits_and_a_merge_count_by_what_came_of_them(scratch: Scratch) -> None:
    before = scratch.git("rev-parse", "HEAD")
    scratch.git("checkout", "--quiet", "-b", "side")
    scratch.write("adapters/cat/images/02.png", "tried out")
    scratch.commit()
    (scratch.root / "adapters/cat/images/02.png").unlink()
    scratch.recipe("dog", "rex")
    scratch.commit()
    scratch.git("checkout", "--quiet", "main")
    scratch.write("adapters/hand/images/02.png", "another")
    scratch.commit()
    scratch.git("merge", "--quiet", "--no-edit", "side")
    assert [name for name, _ in lists(before)["train"]] == ["rex", "thumbs-up"]
    assert [name for name, _ in lists("HEAD^1")["train"]] == ["rex"]  # as for a pull request


def test_a_renamed_folder_is_trained_from_its_new_place_and_nothing_is_removed(
    scratch: Scratch,
) -> None:
    before = scratch.git("rev-parse", "HEAD")
    scratch.git("mv", "adapters/cat", "adapters/the cat: ' of Thor é")
    scratch.commit()
    assert lists(before) == {"train": [("thor-cat", "adapters/the cat: ' of Thor é/recipe.yaml")]}


def test_a_renamed_adapter_is_a_new_one_and_the_old_one_is_named(scratch: Scratch) -> None:
    before = scratch.git("rev-parse", "HEAD")
    scratch.git("mv", "adapters/cat", "adapters/tom")
    scratch.recipe("tom", "tom-cat")
    scratch.commit()
    assert lists(before) == {
        "train": [("tom-cat", "adapters/tom/recipe.yaml")],
        "removed": [("thor-cat",)],
    }


def test_a_removed_recipe_is_not_trained(scratch: Scratch) -> None:
    before = scratch.git("rev-parse", "HEAD")
    scratch.git("rm", "--quiet", "-r", "adapters/hand")
    scratch.commit()
    assert lists(before) == {"removed": [("thumbs-up",)]}


def test_a_picture_that_moves_from_one_adapter_to_another_changes_both(scratch: Scratch) -> None:
    before = scratch.git("rev-parse", "HEAD")
    scratch.git("mv", "adapters/cat/images/01.png", "adapters/hand/images/09.png")
    scratch.commit()
    assert [name for name, _ in lists(before)["train"]] == ["thor-cat", "thumbs-up"]


def test_pictures_and_bases_elsewhere_are_those_of_whoever_names_them(scratch: Scratch) -> None:
    scratch.recipe("dog", "rex", pictures="../../pictures/dogs")
    scratch.write("pictures/dogs/01.png", "rex")
    scratch.write("models/miniature/unet/config.json", "{}")
    before = scratch.commit()
    scratch.write("pictures/dogs/02.png", "rex again")
    scratch.write("pictures/dogs-of-others/02.png", "not rex")
    dogs = scratch.commit()
    assert [name for name, _ in lists(before)["train"]] == ["rex"]
    scratch.write("models/miniature/unet/config.json", "{ }")
    scratch.commit()
    assert [name for name, _ in lists(dogs)["train"]] == ["thor-cat", "rex", "thumbs-up"]


@pytest.mark.parametrize("text", ["adapter: [", "- a list", "stages: 3\nbase: x", "", "adapter: 3"])
def test_a_recipe_that_cannot_be_read_is_its_folders(scratch: Scratch, text: str) -> None:
    before = scratch.git("rev-parse", "HEAD")
    scratch.write("adapters/cat/recipe.yaml", text)
    scratch.commit()
    assert lists(before)["train"] == [("cat", "adapters/cat/recipe.yaml")]


def test_declarations_are_carried_out_or_retired_each_in_its_environment(scratch: Scratch) -> None:
    scratch.declare("production", "rex")
    before = scratch.commit()
    scratch.declare("staging", "thor-cat", "version: 2\ncanary: {version: 3, percent: 10}\n")
    scratch.declare("staging", "rex")
    scratch.git("rm", "--quiet", "k8s/environments/production/adapters/rex.yaml")
    scratch.declare("production", "thor-cat")
    scratch.write("k8s/environments/production/adapters/README.md", "not a declaration")
    scratch.commit()
    assert lists(before) == {
        "promote": [
            ("production", "thor-cat", 1),
            ("staging", "rex", 1),
            ("staging", "thor-cat", 3),
        ],
        "retire": [("production", "rex", 1)],
    }


@pytest.mark.parametrize("before", [NOTHING, "1234567890" * 4], ids=["first push", "forced push"])
def test_without_the_commit_before_everything_counts_as_changed(
    scratch: Scratch, before: str
) -> None:
    assert lists(before) == {
        "train": [
            ("thor-cat", "adapters/cat/recipe.yaml"),
            ("thumbs-up", "adapters/hand/recipe.yaml"),
        ],
        "promote": [("staging", "thor-cat", 1)],
    }
    said = CliRunner().invoke(app, ["changed", "--since", before]).stdout
    assert said.startswith(f"{before}: not in this repository")


@pytest.mark.parametrize("revision", ["mian", "--output=/tmp/x", "HEAD:README.md"])
def test_a_name_that_is_no_commit_is_bad_input(scratch: Scratch, revision: str) -> None:
    result = CliRunner().invoke(app, ["changed", f"--since={revision}"])
    assert result.exit_code == 2
    assert f"{revision}: is not a commit" in result.stderr


def test_until_is_another_commit_than_the_one_that_is_checked_out(scratch: Scratch) -> None:
    first = scratch.git("rev-parse", "HEAD")
    scratch.recipe("dog", "rex")
    second = scratch.commit()
    scratch.recipe("fox", "reynard")
    scratch.commit()
    assert [name for name, _ in lists(first, "--until", second)["train"]] == ["rex"]


def test_outside_of_a_repository_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert asked("HEAD").exit_code == 2


def test_the_outputs_of_a_step_are_one_line_each(scratch: Scratch, tmp_path: Path) -> None:
    before = scratch.git("rev-parse", "HEAD")
    scratch.git("mv", "adapters/cat", "adapters/a\nb")
    scratch.commit()
    file = tmp_path / "output"
    file.write_text("earlier=1\n")
    assert asked(before, "--github-output", str(file)).exit_code == 0
    first, *rest = file.read_text().splitlines()
    outputs = dict(line.split("=", 1) for line in rest)
    assert first == "earlier=1" and tuple(outputs) == LISTS
    assert json.loads(outputs["train"])[0]["recipe"] == "adapters/a\nb/recipe.yaml"
    assert outputs["retire"] == "[]"
