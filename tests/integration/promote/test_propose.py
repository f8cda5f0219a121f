"""Proposals: from a judged version in a real registry to a branch of a real repository.

GitHub's part, the pull request, is played by a server on loopback.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from atelier.data.declaration import Declaration
from commands.main import app
from tests.github import FakeGitHub, fake_github
from tests.judged import policy
from tests.promoted import Adapter
from tests.repository import Scratch

FILE = "k8s/environments/staging/adapters/thor-cat.yaml"
BRANCH = "atelier/staging/thor-cat"
Atelier = Callable[..., Result]


@pytest.fixture
def github() -> Iterator[FakeGitHub]:
    with fake_github() as made:
        yield made


@pytest.fixture
def checkout(tmp_path: Path) -> Scratch:
    """A clone whose `origin` is bare, with the policy that tests judge by."""
    origin = Scratch.make(tmp_path / "origin")
    origin.git("config", "core.bare", "true")
    made = Scratch.clone(origin.root, tmp_path / "checkout")
    made.write("k8s/environments/staging/policy.yaml", _policy())
    made.write("k8s/environments/staging/adapters/README.md", "what serves")
    made.commit()
    made.git("push", "--quiet", "origin", "HEAD:main")
    return made


def _policy() -> str:
    return yaml.safe_dump(json.loads(policy().model_dump_json(exclude_none=True)))


@pytest.fixture
def atelier(
    checkout: Scratch, cat: Adapter, github: FakeGitHub, monkeypatch: pytest.MonkeyPatch
) -> Atelier:
    monkeypatch.chdir(checkout.root)
    monkeypatch.setenv("ATELIER_HOME", str(cat.home.root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", cat.registry.uri)
    for name, value in github.variables.items():
        monkeypatch.setenv(name, value)
    return lambda *words: CliRunner().invoke(app, [str(one) for one in words])


@pytest.fixture
def serves(cat: Adapter) -> Iterator[Callable[[int], None]]:
    """Let a version be the one that was seen to serve in staging."""
    yield lambda version: cat.registry.set_alias(cat.name, "staging", version)
    if any("staging" in one.aliases for one in cat.registry.versions(cat.name)):
        cat.registry.remove_alias(cat.name, "staging")


def proposed(checkout: Scratch, branch: str = BRANCH) -> Declaration:
    checkout.git("fetch", "--quiet")
    text = checkout.git("show", f"origin/{branch}:{FILE}")
    return Declaration.model_validate(yaml.safe_load(text))


def done(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return result


def test_without_a_pull_request_the_file_is_written_here(
    atelier: Atelier, checkout: Scratch, cat: Adapter, serves: Callable[[int], None]
) -> None:
    done(atelier("propose", "thor-cat", 1))
    found = Declaration.load(checkout.root / FILE)
    assert (found.version, found.digest, found.replaces) == (1, cat.digests[1], None)
    serves(1)
    done(atelier("propose", "thor-cat", 2, "--reason", "sharper"))
    second = Declaration.load(checkout.root / FILE)
    assert (second.version, second.replaces, second.reason) == (2, found.pin, "sharper")


def test_what_was_declared_and_never_served_is_not_what_a_proposal_replaces(
    atelier: Atelier, checkout: Scratch, cat: Adapter
) -> None:
    """A first promotion that failed: its mend replaces nothing, as nothing serves."""
    done(atelier("propose", "thor-cat", 1))
    done(atelier("propose", "thor-cat", 2))
    found = Declaration.load(checkout.root / FILE)
    assert (found.version, found.replaces) == (2, None)


def test_a_pull_request_has_the_file_the_numbers_and_nothing_else(
    atelier: Atelier, checkout: Scratch, github: FakeGitHub, tmp_path: Path
) -> None:
    body = tmp_path / "summary.md"
    body.write_text("subject 0.8")
    result = done(atelier("propose", "thor-cat", 1, "--pull-request", "--body", body))
    assert github.pulls[0]["html_url"] in result.stdout
    (pull,) = github.pulls
    assert (pull["head"], pull["base"], pull["body"]) == (BRANCH, "main", "subject 0.8")
    assert proposed(checkout).version == 1
    changed = checkout.git("diff", "--name-only", "origin/main", f"origin/{BRANCH}")
    assert changed == FILE and not (checkout.root / FILE).exists()


def test_a_newer_candidate_renews_the_request_on_top_of_main_as_it_is_by_then(
    atelier: Atelier,
    checkout: Scratch,
    github: FakeGitHub,
    tmp_path: Path,
    serves: Callable[[int], None],
) -> None:
    done(atelier("propose", "thor-cat", 1, "--pull-request"))
    serves(1)
    checkout.git("fetch", "--quiet")
    checkout.git("push", "--quiet", "origin", f"refs/remotes/origin/{BRANCH}:refs/heads/main")
    other = Scratch.clone(tmp_path / "origin", tmp_path / "other")
    other.write("README.md", "more")
    other.commit()
    other.git("push", "--quiet", "origin", "HEAD:main")
    done(atelier("propose", "thor-cat", 2, "--pull-request"))
    (pull,) = github.pulls
    assert pull["title"] == "staging: thor-cat 2"
    found = proposed(checkout)
    assert found.version == 2 and found.replaces is not None and found.replaces.version == 1
    assert checkout.git("show", f"origin/{BRANCH}:README.md") == "more"
    again = done(atelier("propose", "thor-cat", 1, "--pull-request"))
    assert "already declares thor-cat@1 in staging" in again.stdout


def test_comments_of_operators_stay_in_what_is_proposed(
    atelier: Atelier, checkout: Scratch, github: FakeGitHub
) -> None:
    done(atelier("propose", "thor-cat", 1))
    written = (checkout.root / FILE).read_text()
    checkout.write(FILE, written.replace("reason:", "# ask Ann before a change\nreason:"))
    done(atelier("propose", "thor-cat", 1, "--reason", "again"))
    assert "# ask Ann before a change\nreason: again\n" in (checkout.root / FILE).read_text()
    checkout.commit()
    checkout.git("push", "--quiet", "origin", "HEAD:main")
    done(atelier("propose", "thor-cat", 2, "--pull-request"))
    checkout.git("fetch", "--quiet")
    shown = checkout.git("show", f"origin/{BRANCH}:{FILE}")
    assert "# ask Ann before a change\nreason: promoted" in shown


def test_a_canary_keeps_what_serves(atelier: Atelier, checkout: Scratch, cat: Adapter) -> None:
    assert atelier("propose", "thor-cat", 2, "--canary", 10).exit_code == 2  # nothing serves
    done(atelier("propose", "thor-cat", 1))
    done(atelier("propose", "thor-cat", 2, "--canary", 10))
    found = Declaration.load(checkout.root / FILE)
    assert found.version == 1 and found.canary is not None
    assert (found.canary.version, found.canary.percent) == (2, 10)
    assert atelier("propose", "thor-cat", 1, "--canary", 10).exit_code == 2  # serves already
    done(atelier("propose", "thor-cat", 2))
    finished = Declaration.load(checkout.root / FILE)
    assert (finished.version, finished.canary) == (2, None)


def test_what_the_policy_refuses_is_not_proposed(
    atelier: Atelier, checkout: Scratch, github: FakeGitHub
) -> None:
    strict = policy(gates={"subject": {"min": 0.99}})
    text = yaml.safe_dump(json.loads(strict.model_dump_json(exclude_none=True)))
    checkout.write("k8s/environments/staging/policy.yaml", text)
    result = atelier("propose", "thor-cat", 2, "--pull-request")
    assert result.exit_code == 1 and "subject" in result.stderr
    assert github.asked == [] and BRANCH not in checkout.git("ls-remote", "origin")


def test_what_was_withdrawn_does_not_come_back_unseen(
    atelier: Atelier, checkout: Scratch, cat: Adapter
) -> None:
    done(atelier("propose", "thor-cat", 1))
    found = Declaration.load(checkout.root / FILE)
    bad = {"version": 2, "digest": cat.digests[2], "reason": "drew dogs"}
    said = found.model_dump(mode="json", exclude_none=True) | {"withdrawn": [bad]}
    checkout.write(FILE, yaml.safe_dump(said))
    result = atelier("propose", "thor-cat", 2)
    assert result.exit_code == 1 and "drew dogs" in result.stderr


def test_what_was_done_is_committed_or_asked_for_where_main_is_protected(
    atelier: Atelier, checkout: Scratch, github: FakeGitHub, tmp_path: Path
) -> None:
    done(atelier("propose", "thor-cat", 1))
    done(atelier("commit", "thor-cat serves (by hand)"))
    assert proposed(checkout, "main").version == 1
    checkout.git("reset", "--quiet", "--hard", "origin/main")
    assert "already" in done(atelier("commit", "nothing")).stdout
    hook = tmp_path / "origin" / ".git" / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text('#!/bin/sh\ntest "$1" != refs/heads/main\n')
    hook.chmod(0o755)
    (checkout.root / FILE).unlink()
    done(atelier("commit", "retire thor-cat in staging (done with it)"))
    (pull,) = github.pulls
    assert pull["title"] == "retire thor-cat in staging (done with it)"
    checkout.git("fetch", "--quiet")
    assert FILE not in checkout.git("ls-tree", "-r", "--name-only", f"origin/{pull['head']}")


def test_an_environment_that_is_not_there_is_named(atelier: Atelier) -> None:
    result = atelier("propose", "thor-cat", 1, "--environment", "moon")
    assert result.exit_code == 2 and "known are staging" in result.stderr
