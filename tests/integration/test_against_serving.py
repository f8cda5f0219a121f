"""`atelier validate` on a real registry: two versions that were judged elsewhere, and no engine."""

import html
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from atelier.stores.registry import Registry
from commands.main import app
from pipelines.evaluate import attest
from tests.judged import GOOD, drawn, evaluation, policy
from tests.promoted import package

NAME, RED, BLUE = "thor-cat", (200, 0, 0), (0, 0, 200)
POLICY = policy(
    prompts={"subject": ["{trigger} on the beach", "{trigger} | <b>"], "unrelated": ["a robot"]},
    against_serving={"subject": {"min_delta": -0.05}},
)


class Desk:
    """A checkout with one environment, and a registry."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.registry = Registry(f"sqlite:///{folder / 'mlflow.db'}")
        file = folder / "k8s/environments/production/policy.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(yaml.safe_dump(POLICY.model_dump(mode="json", exclude_none=True)))

    def version(self, seed: int) -> int:
        """Registered, and not judged."""
        made = package(self.folder / f"package-{seed}", NAME, seed)
        return self.registry.register(made, run_id=None)

    def judge(self, version: int, colour: tuple[int, int, int], **values: float) -> None:
        digest = self.registry.version(NAME, version).digest
        judged = evaluation(POLICY, subject=GOOD | values, digest=digest)
        into = self.folder / f"judged-{version}"
        info = self.registry.version(NAME, version)
        attest(self.registry, info, drawn(judged, into, colour), into)

    def validate(self, *options: str) -> Result:
        return CliRunner().invoke(app, ["validate", NAME, "--environment", "production", *options])


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATELIER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return Desk(tmp_path)


def test_the_first_version_is_judged_alone_and_the_next_against_it(desk: Desk) -> None:
    first, out, steps = desk.version(1), desk.folder / "out", desk.folder / "steps.md"
    outputs = desk.folder / "outputs"
    outputs.write_text("before=1\n")
    missing = desk.validate()
    assert missing.exit_code == 1
    assert "`atelier submit RECIPE --environment production` evaluates it" in missing.output
    desk.judge(first, RED)
    alone = desk.validate("--json")
    assert alone.exit_code == 0, alone.output
    assert json.loads(alone.stdout)["serving"] is None

    desk.registry.set_alias(NAME, "production", first)
    second = desk.version(2)
    desk.judge(second, BLUE, subject=0.7)  # above the policy's 0.6, but 0.1 below the first
    steps.write_text("before\n")
    place = ("--output", str(out), "--pictures-url", "https://ci.example/runs/7#artifacts")
    told = ("--summary", str(steps), "--github-output", str(outputs))
    said = desk.validate(*place, *told, "--json")
    found = json.loads(said.stdout)
    assert (said.exit_code, found["accepted"], found["version"]) == (1, False, second)
    assert (found["serving"], len(found["reasons"])) == (first, 1)
    differences = {one["name"]: one for one in found["differences"]}
    assert differences["subject"]["delta"] == pytest.approx(-0.1)
    assert differences["subject"]["word"] == "worse"

    page = (out / "summary.md").read_text()
    assert steps.read_text() == f"before\n{page}"
    assert outputs.read_text() == f"before=1\nversion={second}\n"
    seen = html.unescape(page)
    assert f'<a href="https://ci.example/runs/7#artifacts">{out / "sheet.jpg"}</a>' in seen
    assert f"## ❌ {NAME}@{second}: refused for production, against {NAME}@{first}" in seen
    assert "0.100 lower than for the serving version (0.800)" in seen
    assert f"worst of the stored pictures: {NAME}@{second}/pictures/subject-0-seed-0.png" in seen
    assert f"atelier adapters pictures {NAME}@{second}" in seen
    assert f"atelier validate {NAME} {second} --environment production" in seen
    assert desk.registry.version(NAME, second).digest in seen

    with Image.open(out / "sheet.jpg") as sheet:
        pixels = np.asarray(sheet).astype(int)
    red, blue = ((np.abs(pixels - colour).max(axis=2) < 30) for colour in (RED, BLUE))
    assert red.sum() > 2 * 250**2 and blue.sum() > 2 * 250**2  # two prompts each
    assert np.argwhere(blue)[:, 1].max() < np.argwhere(red)[:, 1].min()  # the candidate's first

    back = desk.validate(str(first))  # the one that serves, against itself
    assert back.exit_code == 0 and "no difference told apart" in back.output


def test_a_version_without_pictures_is_compared_by_its_numbers(desk: Desk) -> None:
    first = desk.version(1)
    digest = desk.registry.version(NAME, first).digest
    document = evaluation(POLICY, digest=digest).to_json().encode()
    info = desk.registry.version(NAME, first)
    desk.registry.attest(info, "evaluation.json", document)
    desk.registry.set_alias(NAME, "production", first)
    desk.judge(desk.version(2), BLUE)
    said = desk.validate("--output", str(desk.folder / "out"))
    assert said.exit_code == 0, said.output
    page = html.unescape((desk.folder / "out/summary.md").read_text())
    assert f"the evaluation of <code>{NAME}@{first}</code> by an older release" in page
    assert not (desk.folder / "out/sheet.jpg").exists()


def test_an_environment_that_is_not_there_is_bad_input(desk: Desk) -> None:
    said = CliRunner().invoke(app, ["validate", NAME, "--environment", "moon"])
    assert said.exit_code == 2
    assert "environments/moon: no such environment; known are production" in said.output
