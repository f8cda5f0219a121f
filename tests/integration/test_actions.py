"""Workflows as act runs them here: what a pull request with recipes is told, and by whom.

Those that need a cluster run in tests/cluster/e2e/test_push.py.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.actions.act import Act, Ended, missing
from tests.github import REPOSITORY, FakeGitHub, fake_github
from tests.repository import Scratch

ROOT = Path(__file__).resolve().parents[2]
THOR = ROOT / "examples" / "thor-cat"
FORK = "stranger/atelier"
SECRET = "not-for-pull-requests"

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture
def github() -> Iterator[FakeGitHub]:
    with fake_github() as made:
        yield made


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    """A repository with our workflows and one good recipe; what follows is on a branch."""
    made = Scratch.make(tmp_path / "repository")
    made.git("remote", "add", "origin", f"https://github.com/{REPOSITORY}.git")  # act reads it
    shutil.copytree(ROOT / ".github", made.root / ".github")
    _add(made, "thor-cat")
    made.commit()
    made.git("checkout", "--quiet", "-b", "proposed")
    return made


def _add(scratch: Scratch, name: str) -> Path:
    folder = scratch.root / "adapters" / name
    shutil.copytree(THOR / "images", folder / "images")
    text = (THOR / "recipe.yaml").read_text().replace("adapter: thor-cat", f"adapter: {name}")
    (folder / "recipe.yaml").write_text(text)
    return folder


def propose(scratch: Scratch, github: FakeGitHub, folder: Path, *, of: str = REPOSITORY) -> Ended:
    """Open a pull request of what is on the branch: GitHub checks out its merge into main."""
    scratch.commit()
    scratch.git("checkout", "--quiet", "main")
    scratch.git("merge", "--quiet", "--no-ff", "--no-edit", "proposed")
    head = {"ref": "proposed", "repo": {"full_name": of}}
    payload = {"number": 7, "pull_request": {"number": 7, "head": head, "base": {"ref": "main"}}}
    act = Act(folder, github.variables)
    secrets = {"MLFLOW_TRACKING_PASSWORD": SECRET}
    return act.run(scratch.root, "train", "pull_request", payload, job="lint", secrets=secrets)


def test_a_bad_dataset_stops_at_the_pull_request_with_the_reason(
    scratch: Scratch, github: FakeGitHub, tmp_path: Path
) -> None:
    folder = _add(scratch, "tom-cat")
    (folder / "images" / "02-room.png").write_bytes(b"not a picture")
    ended = propose(scratch, github, tmp_path / "act")
    assert ended.code != 0 and ended.jobs() == {"train/lint": False}
    assert "thor-cat" not in "".join(ended.said())  # it did not change
    reason = "adapters/tom-cat/images/02-room.png"
    assert any(line.startswith(f"error: {reason}: ") for line in ended.said())
    assert f"::error file={reason}::" in ended.text
    (comment,) = github.comments
    assert comment["issue"] == 7 and f"**error** `{reason}`" in comment["body"]
    assert SECRET not in ended.text


def test_a_mended_one_passes_and_takes_its_comment_back(
    scratch: Scratch, github: FakeGitHub, tmp_path: Path
) -> None:
    folder = _add(scratch, "tom-cat")
    recipe = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(recipe.replace("rank:", "rnak:"))
    ended = propose(scratch, github, tmp_path / "first")
    assert ended.jobs() == {"train/lint": False}
    assert "unknown key; did you mean rank?" in github.comments[0]["body"]
    scratch.git("checkout", "--quiet", "proposed")
    (folder / "recipe.yaml").write_text(recipe)
    ended = propose(scratch, github, tmp_path / "second")
    assert ended.code == 0 and ended.jobs() == {"train/lint": True}
    (comment,) = github.comments
    assert "error" not in comment["body"] and "✅ `adapters/tom-cat/recipe.yaml`" in comment["body"]


def test_a_forks_request_is_looked_at_but_writes_nothing(
    scratch: Scratch, github: FakeGitHub, tmp_path: Path
) -> None:
    _add(scratch, "tom-cat")
    ended = propose(scratch, github, tmp_path / "act", of=FORK)
    assert ended.code == 0 and ended.jobs() == {"train/lint": True}
    assert github.asked == []


def test_a_push_without_recipes_trains_nothing(scratch: Scratch, tmp_path: Path) -> None:
    before = scratch.git("rev-parse", "HEAD")
    scratch.write("README.md", "hello")
    scratch.commit()
    payload = {"before": before, "ref": "refs/heads/main"}
    ended = Act(tmp_path / "act").run(scratch.root, "train", "push", payload)
    assert ended.code == 0, ended.text
    assert ended.jobs() == {"train/changed": True}
    assert "nothing to do" in ended.said()


def test_a_pushed_recipe_gets_jobs_of_its_own(scratch: Scratch, tmp_path: Path) -> None:
    """Without a cluster its training stops at the first step that wants one."""
    before = scratch.git("rev-parse", "HEAD")
    _add(scratch, "tom-cat")
    _add(scratch, "rex")
    scratch.commit()
    payload = {"before": before, "ref": "refs/heads/main"}
    ended = Act(tmp_path / "act").run(scratch.root, "train", "push", payload)
    assert ended.code != 0
    assert ended.jobs() == {
        "train/changed": True,
        "adapter-1/adapter/train": False,
        "adapter-2/adapter/train": False,
    }
    assert "neither --server nor ATELIER_CLUSTER is set" in "\n".join(ended.said())
