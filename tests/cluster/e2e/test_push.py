"""The workflows themselves, run by act: an adapter's life from a push to its end.

Each test goes on where the one before it left git and cluster.
"""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from atelier.data.declaration import Declaration, Declarations
from atelier.data.release import Release
from atelier.platform.release_configmaps import PREFIX
from tests.actions.act import Ended, missing
from tests.cluster.e2e.platform import DIRECT, Platform
from tests.cluster.e2e.rollouts import ENVIRONMENT
from tests.cluster.e2e.trainings import Trainings
from tests.cluster.e2e.workflows import STEPS, Workflows
from tests.github import fake_github

NAME = "freya"
SHARE = 20  # percent

pytestmark = [
    pytest.mark.actions,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]


@pytest.fixture(scope="module")
def workflows(
    trainings: Trainings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workflows]:
    with fake_github() as github:
        yield Workflows(trainings, github, tmp_path_factory.mktemp("workflows"))


def succeeded(ended: Ended) -> None:
    assert ended.code == 0 and all(ended.jobs().values()), ended.text[-6000:]


def form(workflows: Workflows, workflow: str, **inputs: str) -> None:
    """Filled in and done; the checkout has what it pushed."""
    asked = {"adapter": NAME, "environment": ENVIRONMENT, **inputs}
    succeeded(workflows.form(workflow, asked))
    workflows.pull()


def promoted(workflows: Workflows) -> None:
    """The pull request is merged, and what that sets going ends well."""
    succeeded(workflows.push("promote", workflows.merge()))


def declared(workflows: Workflows) -> Declaration:
    return Declarations(workflows.repository.root, ENVIRONMENT).get(NAME)


def live(platform: Platform) -> Release:
    """What replicas and gateways go by."""
    data = platform.of("configmap", f"{PREFIX}{NAME}")["data"]
    return Release.model_validate_json(data["release.json"])


def differences(workflows: Workflows) -> list[str]:
    """What the scheduled look finds about the adapter; the platform's others are not in git."""
    ended = workflows.form("drift", {}, matrix={"environment": ENVIRONMENT})
    assert list(ended.jobs().values()) == [False], ended.text[-6000:]
    return [line for line in ended.said() if line.startswith(f"{NAME}: ")]


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


def traced(platform: Platform, image: Path, signers: Path) -> Any:
    """What `atelier trace` says of a picture's only adapter."""
    words = ("trace", str(image), "--signers", str(signers))
    (adapter,) = platform.atelier(*words)["adapters"]
    return adapter


def test_a_push_of_a_recipe_ends_with_the_adapter_served(
    released: Platform,
    workflows: Workflows,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    began = time.monotonic()
    before = workflows.recipe(NAME)
    commit = workflows.repository.git("rev-parse", "HEAD")
    succeeded(workflows.push("train", before))
    (request,) = workflows.open_requests()
    assert request["head"] == f"atelier/{ENVIRONMENT}/{NAME}"
    assert "accepted" in request["body"]
    record_property("push to pull request, s", round(time.monotonic() - began))

    promoted(workflows)
    record_property("push to served, s", round(time.monotonic() - began))
    now = declared(workflows)
    drawn = picture(released, tmp_path / "freya.png")
    assert released.alias(NAME) == now.version

    found = traced(released, drawn, workflows.platform_file)
    assert (found["name"], found["version"], found["digest"]) == (NAME, now.version, now.digest)
    assert found["lineage"]["git_commit"] == commit
    assert all(found["lineage"][key] for key in ("run", "dataset", "recipe"))
    assert found["signature"]["state"] == "good"

    again = workflows.push("train", before)  # the same commit: found, not trained again
    succeeded(again)
    assert any("exists already; it was made from the same inputs" in line for line in again.said())
    assert workflows.open_requests() == []


def test_a_form_goes_back_and_the_look_at_it_agrees(
    released: Platform, workflows: Workflows
) -> None:
    first = declared(workflows)
    succeeded(workflows.push("train", workflows.recipe(NAME, STEPS + 4)))
    promoted(workflows)
    second = declared(workflows)
    assert second.replaces == first.pin and live(released).pin == second.pin

    reason = "too sharp; $(touch oops) `id` ${HOME}"  # a person's text reaches no shell
    form(workflows, "rollback", revision="1", reason=reason)
    assert live(released).pin == first.pin and released.alias(NAME) == first.version
    back = declared(workflows)
    assert back.pin == first.pin
    assert [(one.version, one.reason) for one in back.withdrawn] == [(second.version, reason)]
    assert "too sharp" in workflows.repository.git("log", "-1", "--format=%B")
    assert differences(workflows) == []

    released.helm("rollback", NAME, "2")  # by hand, to what is withdrawn
    told = "\n".join(differences(workflows))
    assert f"git declares version {first.version}" in told
    assert f"the cluster serves version {second.version}" in told
    assert f"version {second.version}, withdrawn in git: too sharp" in told
    form(workflows, "rollback", reason="by hand it came back")
    assert live(released).pin == first.pin
    assert differences(workflows) == []


def test_what_is_refused_is_shown_and_proposed_to_nobody(
    released: Platform, workflows: Workflows
) -> None:
    """It learns ten thousand times too slowly, so the policy's gate refuses it in the Job."""
    serves = live(released)
    ended = workflows.push("train", workflows.recipe(NAME, lr=1.0e-7))
    assert ended.code != 0
    said = "\n".join(ended.said())
    assert (
        "is refused:" in said and "the adapter changes nothing; check that it was trained" in said
    )
    assert any(line.startswith("MEASURE") for line in ended.said())  # beside what serves
    assert workflows.open_requests() == []
    assert live(released).pin == serves.pin and released.alias(NAME) == serves.version


def test_a_canary_is_begun_by_a_form_and_ended_by_another(
    released: Platform, workflows: Workflows
) -> None:
    first = declared(workflows)
    succeeded(workflows.push("train", workflows.recipe(NAME, STEPS + 8)))
    (request,) = workflows.open_requests()
    form(workflows, "validate", canary=str(SHARE))
    (renewed,) = workflows.open_requests()  # the same one, with less in it
    assert renewed["number"] == request["number"] and f"to {SHARE} %" in renewed["title"]

    promoted(workflows)
    tried = live(released).canary
    assert tried is not None and live(released).pin == first.pin
    assert tried.percent == SHARE and tried.version > first.version
    assert differences(workflows) == []

    form(workflows, "rollback", reason="no better")
    assert live(released).canary is None and live(released).pin == first.pin
    assert tried.version in [one.version for one in declared(workflows).withdrawn]

    form(workflows, "retire", reason="enough of it")
    assert Declarations(workflows.repository.root, ENVIRONMENT).list() == {}
    assert not released.there("configmap", f"{PREFIX}{NAME}")
    assert "enough of it" in workflows.repository.git("log", "-1", "--format=%B")
