"""The workflows themselves, run by act: a push of a recipe ends with the adapter served."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from atelier.declaration import Declarations
from tests.actions.act import Ended, missing
from tests.cluster.e2e.platform import DIRECT, Platform
from tests.cluster.e2e.rollouts import ENVIRONMENT
from tests.cluster.e2e.trainings import Trainings
from tests.cluster.e2e.workflows import Workflows
from tests.github import FakeGitHub, fake_github

NAME = "freya"

pytestmark = [
    pytest.mark.actions,
    pytest.mark.skipif(bool(missing()), reason=missing()),
]


@pytest.fixture
def github() -> Iterator[FakeGitHub]:
    with fake_github() as made:
        yield made


def succeeded(ended: Ended) -> None:
    assert ended.code == 0 and all(ended.jobs().values()), ended.text[-6000:]


def traced(platform: Platform, image: Path, signers: Path) -> Any:
    """What `atelier trace` says of a picture's only adapter."""
    words = ("trace", str(image), "--signers", str(signers))
    (adapter,) = platform.atelier(*words)["adapters"]
    return adapter


def picture(platform: Platform, file: Path) -> Path:
    """A PNG as a service gets it, metadata and all."""
    body = {"prompt": "a cat in the snow", "adapter": NAME, "seed": 3, "steps": 2}
    request = urllib.request.Request(
        f"{platform.gateway}/generate_image",
        data=json.dumps(body).encode(),
        headers={
            "X-API-Key": platform.key,
            "Content-Type": "application/json",
            "Accept": "image/png",
        },
    )
    with DIRECT.open(request, timeout=120) as answer:
        file.write_bytes(answer.read())
    return file


@pytest.mark.timeout(2400)
def test_a_push_of_a_recipe_ends_with_the_adapter_served(
    released: Platform,
    trainings: Trainings,
    github: FakeGitHub,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    workflows = Workflows(trainings, github, tmp_path)
    root = workflows.repository.root
    began = time.monotonic()
    before = workflows.add(NAME)
    commit = workflows.repository.git("rev-parse", "HEAD")
    succeeded(workflows.push("train", before))
    (request,) = github.pulls
    assert request["head"] == f"atelier/{ENVIRONMENT}/{NAME}"
    assert "accepted" in request["body"]
    record_property("push to pull request, s", round(time.monotonic() - began))

    merged = workflows.merge(request["head"])
    succeeded(workflows.push("promote", merged))
    record_property("push to served, s", round(time.monotonic() - began))
    declared = Declarations(root, ENVIRONMENT).get(NAME)
    drawn = picture(released, tmp_path / "freya.png")
    assert released.alias(NAME) == declared.version

    found = traced(released, drawn, workflows.platform_file)
    assert (found["name"], found["version"], found["digest"]) == (
        NAME,
        declared.version,
        declared.digest,
    )
    assert found["lineage"]["git_commit"] == commit
    assert all(found["lineage"][key] for key in ("run", "dataset", "recipe"))
    assert found["signature"]["state"] == "good"

    again = workflows.push("train", before)  # the same commit: found, not trained again
    succeeded(again)
    assert any("was made from the same already" in line for line in again.said())
    assert len(github.pulls) == 1

    asked = {"adapter": NAME, "environment": ENVIRONMENT, "reason": "enough of it"}
    succeeded(workflows.form("retire", asked))
    workflows.pull()
    assert Declarations(root, ENVIRONMENT).list() == {}
    assert "enough of it" in workflows.repository.git("log", "-1", "--format=%B")
