"""What we say to GitHub, and what we make of its refusals; a server on loopback plays its part."""

from collections.abc import Iterator

import pytest

from atelier.ci.github import BODY, PAGE, GitHub, pull_request_of_workflow
from atelier.errors import BadInput, Refused, Unavailable
from tests.github import REPOSITORY, TOKEN, FakeGitHub, fake_github


@pytest.fixture
def server() -> Iterator[FakeGitHub]:
    with fake_github() as made:
        yield made


@pytest.fixture
def github(server: FakeGitHub, monkeypatch: pytest.MonkeyPatch) -> GitHub:
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    return GitHub.of_environment()


def test_a_branch_has_one_pull_request_that_is_written_anew(
    server: FakeGitHub, github: GitHub
) -> None:
    first = github.pull_request("atelier/staging/cat", "main", "cat 2", "numbers")
    other = github.pull_request("atelier/staging/dog", "main", "dog 1", "numbers")
    again = github.pull_request("atelier/staging/cat", "main", "cat 3", "other numbers")
    assert first == again != other
    assert [(one["title"], one["body"]) for one in server.pulls] == [
        ("cat 3", "other numbers"),
        ("dog 1", "numbers"),
    ]


def test_a_closed_pull_request_is_not_opened_again(server: FakeGitHub, github: GitHub) -> None:
    first = github.pull_request("atelier/staging/cat", "main", "cat 2", "")
    server.pulls[0]["state"] = "closed"
    assert github.pull_request("atelier/staging/cat", "main", "cat 3", "") != first


def test_a_comment_takes_the_place_of_the_last_of_its_kind(
    server: FakeGitHub, github: GitHub
) -> None:
    for number in range(PAGE):  # others', on a page of their own
        server.comments.append({"id": number + 1, "issue": 7, "body": None, "html_url": ""})
    first = github.comment(7, "lint", "bad")
    github.comment(7, "validate", "numbers")
    github.comment(8, "lint", "another request's")
    assert github.comment(7, "lint", "good") == first
    written = [one["body"].partition("\n")[2] for one in server.comments[PAGE:]]
    assert written == ["good", "numbers", "another request's"]


def test_a_text_that_github_would_refuse_is_cut_off(server: FakeGitHub, github: GitHub) -> None:
    github.pull_request("atelier/staging/cat", "main", "cat 2", "x" * 70_000)
    github.comment(7, "lint", "y" * 70_000)
    for text, letter in ((server.pulls[0]["body"], "x"), (server.comments[0]["body"], "y")):
        assert text.count(letter * BODY) == 1 and text.endswith("… (cut off: too long)")
        assert len(text) < 65_536


@pytest.mark.parametrize("ref", ["refs/pull/7/merge", "refs/pull/7/head"])
def test_a_workflow_knows_its_pull_request(ref: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_REF", ref)
    assert pull_request_of_workflow() == 7


@pytest.mark.parametrize("ref", ["", "refs/heads/main", "refs/pull/x/merge"])
def test_a_workflow_of_no_pull_request_is_told(ref: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_REF", ref)
    with pytest.raises(BadInput, match="names no pull request"):
        pull_request_of_workflow()


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((401, {}, {"message": "Bad credentials"}), Refused, "401 Bad credentials"),
        ((403, {}, {"message": "Resource not accessible"}), Refused, "pull-requests: write"),
        ((403, {"Retry-After": "7"}, {"message": "slow down"}), Unavailable, "slow down"),
        ((403, {"X-RateLimit-Remaining": "0"}, {"message": "limit"}), Unavailable, "limit"),
        ((404, {}, {"message": "Not Found"}), BadInput, "404 Not Found"),
        ((422, {}, {"message": "Failed", "errors": ["no commits"]}), BadInput, "no commits"),
        ((502, {}, {}), Unavailable, "502"),
    ],
)
def test_refusals_say_what_to_do(
    server: FakeGitHub, github: GitHub, answer: tuple, kind: type, words: str
) -> None:
    server.failure = answer
    with pytest.raises(kind, match=words) as told:
        github.pull_request("branch", "main", "title", "body")
    assert TOKEN not in str(told.value)
    if kind is Unavailable:
        assert told.value.retry_after == (7 if "Retry-After" in answer[1] else 60)


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="GitHub, GET"):
        GitHub("http://127.0.0.1:9", REPOSITORY, TOKEN).comment(1, "lint", "")


@pytest.mark.parametrize("name", ["GITHUB_REPOSITORY", "GITHUB_TOKEN"])
def test_a_variable_that_lacks_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in ("GITHUB_REPOSITORY", "GITHUB_TOKEN"):
        monkeypatch.setenv(one, "a/b")
    monkeypatch.delenv(name)
    with pytest.raises(BadInput, match=name):
        GitHub.of_environment()
