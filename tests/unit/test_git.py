"""Commits that are made beside the working tree, and pushed to a real bare repository."""

import stat
from pathlib import Path

import pytest

from atelier.ci.git import GitError, Repository
from atelier.errors import Refused, Unavailable
from tests.repository import Scratch

FILE = "k8s/environments/staging/adapters/thor-cat.yaml"


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    """A clone; its `origin` is the bare repository beside it."""
    origin = Scratch.make(tmp_path / "origin.git")
    origin.git("config", "core.bare", "true")
    first = Scratch.clone(origin.root, tmp_path / "first")
    first.declare("staging", "thor-cat")
    first.write("README.md", "hello")
    first.commit()
    first.git("push", "--quiet", "origin", "HEAD:main")
    return Scratch.clone(origin.root, tmp_path / "clone")


@pytest.fixture
def other(scratch: Scratch, tmp_path: Path) -> Scratch:
    """Somebody else's clone of the same."""
    return Scratch.clone(tmp_path / "origin.git", tmp_path / "other")


def origin_has(scratch: Scratch, path: str, branch: str = "main") -> str:
    scratch.git("fetch", "--quiet")
    return scratch.git("show", f"origin/{branch}:{path}")


def test_a_record_leaves_the_working_tree_and_the_index_alone(scratch: Scratch) -> None:
    scratch.write("README.md", "being written")
    scratch.write("staged.txt", "staged")
    scratch.git("add", "staged.txt")
    before = scratch.git("status", "--porcelain")
    made = Repository(scratch.root).record({FILE: b"version: 2\n"}, "Promote", "main")
    assert scratch.git("status", "--porcelain") == before
    assert origin_has(scratch, FILE) == "version: 2"
    assert origin_has(scratch, "README.md") == "hello"
    assert scratch.git("log", "-1", "--format=%s", made) == "Promote"


def test_what_others_pushed_meanwhile_stays(scratch: Scratch, other: Scratch) -> None:
    other.write("README.md", "theirs")
    other.commit()
    other.git("push", "--quiet")
    Repository(scratch.root).record({FILE: None}, "Retire", "main")
    assert origin_has(scratch, "README.md") == "theirs"
    assert FILE not in scratch.git("ls-tree", "-r", "--name-only", "origin/main")


def test_the_same_file_changed_meanwhile_is_not_written_over(
    scratch: Scratch, other: Scratch
) -> None:
    other.declare("staging", "thor-cat", "version: 5\n")
    other.commit()
    other.git("push", "--quiet")
    with pytest.raises(GitError, match="was changed on main meanwhile"):
        Repository(scratch.root).record({FILE: b"version: 2\n"}, "Promote", "main")
    assert origin_has(scratch, FILE) == "version: 5"


def test_recording_it_twice_is_one_commit(scratch: Scratch) -> None:
    repository = Repository(scratch.root)
    made = repository.record({FILE: b"version: 2\n"}, "Promote", "main")
    assert repository.record({FILE: b"version: 2\n"}, "Promote", "main") == made


def test_a_push_that_loses_a_race_is_made_again(
    scratch: Scratch, other: Scratch, tmp_path: Path
) -> None:
    """The other's commit arrives between our fetch and our push: `origin` takes it first."""
    other.write("README.md", "theirs")
    theirs = other.commit()
    other.git("push", "--quiet", "origin", "HEAD:refs/heads/theirs")
    hook = tmp_path / "origin.git" / ".git" / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(
        "#!/bin/sh\n"
        'test -e "$GIT_DIR/raced" && exit 0\n'
        'touch "$GIT_DIR/raced"\n'
        "unset GIT_QUARANTINE_PATH\n"
        f"git update-ref refs/heads/main {theirs}\n"
    )
    hook.chmod(hook.stat().st_mode | stat.S_IXUSR)
    Repository(scratch.root).record({FILE: b"version: 2\n"}, "Promote", "main")
    assert (tmp_path / "origin.git" / ".git" / "raced").exists()
    assert origin_has(scratch, "README.md") == "theirs"
    assert origin_has(scratch, FILE) == "version: 2"


def test_a_protected_branch_refuses_at_once(scratch: Scratch, tmp_path: Path) -> None:
    hook = tmp_path / "origin.git" / ".git" / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text('#!/bin/sh\ntest "$1" != refs/heads/main\n')
    hook.chmod(hook.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(Refused, match="remote rejected"):
        Repository(scratch.root).record({FILE: b"version: 2\n"}, "Promote", "main")
    assert origin_has(scratch, FILE) == "version: 1"


def test_a_remote_that_is_away_is_told_as_such(scratch: Scratch, tmp_path: Path) -> None:
    scratch.git("remote", "set-url", "origin", str(tmp_path / "nowhere.git"))
    with pytest.raises(Unavailable, match="git fetch"):
        Repository(scratch.root).fetch("main")


def test_edited_files_are_those_of_the_folder_that_differ(scratch: Scratch) -> None:
    scratch.write(FILE, "version: 9\n")
    new = scratch.declare("production", "a b")
    scratch.write("README.md", "elsewhere")
    found = Repository(scratch.root).edited("k8s/environments")
    assert found == {FILE: b"version: 9\n", new: b"version: 1\n"}
    (scratch.root / FILE).unlink()
    assert Repository(scratch.root).edited("k8s/environments")[FILE] is None


def test_who_commits_is_who_git_knows_else_actions(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    repository = Repository(scratch.root)
    made = repository.commit_of({FILE: b"x"}, "x", "HEAD")
    assert scratch.git("log", "-1", "--format=%an", made) == "github-actions[bot]"
    scratch.git("config", "user.email", "someone@example.org")
    scratch.git("config", "user.name", "Someone")
    made = repository.commit_of({FILE: b"y"}, "y", "HEAD")
    assert scratch.git("log", "-1", "--format=%an", made) == "Someone"
