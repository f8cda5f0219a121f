"""The best checkpoint becomes the adapter, in real trainings of a tiny base by real scorers."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from atelier.adapter.package import Package
from atelier.data.policy import Policy
from atelier.data.recipe import Recipe
from atelier.errors import BadInput, Interrupted, RecipeError
from commands.main import app
from pipelines.evaluate import checkpoint_judge
from pipelines.train import TrainResult, train
from pipelines.train.choosing import Score
from pipelines.train.packaging import package_of_checkpoint
from pipelines.train.progress import Silence
from services.engine import Engine
from tests.judged import tiny_scorers
from tests.training import ROOT, file_of, killed, make_studio, recipe

EVERY = 2
STEPS = 10


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, pictures, scorers, and a home of the module's own."""
    folder = make_studio(tmp_path_factory.mktemp("studio"))
    tiny_scorers(folder / "scorers", folder / "base/tokenizer")
    (folder / "policy.json").write_text(policy_of(folder).model_dump_json())
    return folder


def policy_of(studio: Path) -> Policy:
    """A policy that is the harder to pass, the longer the training."""
    return Policy.model_validate(
        {
            "scorers": {name: str(studio / "scorers" / name) for name in ("clip", "dino")},
            "seeds": {"first": 2, "most": 2},
            "steps": 4,
            "prompts": {
                "subject": ["a photo of {trigger} on the beach", "{trigger} at night"],
                "class": ["a photo of a {class}"],
                "unrelated": ["a red robot"],
            },
            "gates": {"subject": {"min": 0.5}, "class_drift": {"max": 0.0001}},
        }
    )


@pytest.fixture(autouse=True)
def _home(studio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module's home, which keeps the class pictures."""
    monkeypatch.setenv("ATELIER_HOME", str(studio / "home"))


def asked(studio: Path, *, keep: int = 1, **judge: int) -> Recipe:
    spec = {"every": 4, "keep": keep, "judge": {"every": EVERY, **judge}}
    return recipe(studio, checkpoint=spec, tracking={"mlflow": True})


@pytest.fixture(scope="module")
def unbroken(studio: Path) -> Iterator[TrainResult]:
    """The recipe in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATELIER_HOME", str(studio / "home"))
        wanted = asked(studio)
        judge = checkpoint_judge(policy_of(studio), wanted)
        yield train(wanted, output=studio / "unbroken", judge=judge)


class Scripted:
    """A judge with an opinion of each checkpoint; it spends random numbers of every kind."""

    digest = "sha256:scripted"

    def __init__(self, *margins: float, act: Callable[[], None] = lambda: None) -> None:
        self.margins, self.act = list(margins), act
        self.seen: list[str] = []

    def score(self, package: Package, engine: Engine, check: Callable[[], None]) -> Score:
        torch.rand(3)
        np.random.rand(3)
        self.act()
        check()
        self.seen.append(package.digest)
        margin = self.margins[len(self.seen) - 1]
        return Score(margin, margin, {"subject": margin})


def curve(output: Path) -> str:
    return (output / "judged.json").read_text()


def kept(output: Path) -> list[int]:
    folders = (output / "checkpoints").iterdir()
    return sorted(int(folder.name.removeprefix("step-")) for folder in folders)


def test_the_package_is_that_of_the_best_checkpoint(studio: Path, unbroken: TrainResult) -> None:
    scores = json.loads(curve(studio / "unbroken"))["scores"]
    assert list(scores) == ["2", "4", "6", "8", "10"]
    margins = {int(step): score["margin"] for step, score in scores.items()}
    assert len(set(margins.values())) == 5
    assert unbroken.steps == max(margins, key=lambda step: margins[step]) < STEPS
    assert kept(studio / "unbroken") == [unbroken.steps, STEPS]


def test_mlflow_has_the_curve_and_the_choice(studio: Path, unbroken: TrainResult) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{studio / 'home' / 'mlflow.db'}")
    scores = json.loads(curve(studio / "unbroken"))["scores"]
    for name in ("subject", "text", "class_drift", "leak"):
        points = client.get_metric_history(unbroken.run_id, f"judge/{name}")
        told = {str(point.step): point.value for point in points}
        assert told == {step: score["values"][name] for step, score in scores.items()}
    points = client.get_metric_history(unbroken.run_id, "judge/margin")
    assert {str(p.step): p.value for p in points} == {s: scores[s]["margin"] for s in scores}
    assert len(client.get_metric_history(unbroken.run_id, "loss")) == STEPS
    tags = client.get_run(unbroken.run_id).data.tags
    assert tags["atelier.step"] == str(unbroken.steps)
    best = f"step {unbroken.steps} is the best of 5 judged checkpoints: margin "
    assert tags["atelier.choice"].startswith(best)
    assert tags["atelier.digest"] == unbroken.package.digest


def test_killed_anywhere_it_chooses_what_the_unbroken_run_chooses(
    studio: Path, unbroken: TrainResult, tmp_path: Path
) -> None:
    output = tmp_path / "killed"
    run = [str(file_of(studio, asked(studio))), "--output", str(output), "--resume"]
    run += ["--policy", str(studio / "policy.json")]
    assert killed(run, passes=2 * 3)  # step 3, after one score
    assert killed(run, flush="package")  # while the candidate of step 4 is written
    assert kept_whole(output) == [2, 4]
    assert killed(run, flush=".judged.json")  # after the score of step 4 is computed
    assert list(json.loads(curve(output))["scores"]) == ["2"]
    assert killed(run, flush=f"{output.name}/.package")  # after the last step
    assert not (output / "package").exists()
    judge = checkpoint_judge(policy_of(studio), asked(studio))
    ended = train(asked(studio), output=output, resume=True, judge=judge)
    assert curve(output) == curve(studio / "unbroken")
    assert ended.package.digest == unbroken.package.digest
    assert (ended.steps, kept(output)) == (unbroken.steps, kept(studio / "unbroken"))


def kept_whole(output: Path) -> list[int]:
    folders = (output / "checkpoints").glob("step-*")
    return sorted(int(folder.name.removeprefix("step-")) for folder in folders)


def test_judging_changes_no_weight(studio: Path, unbroken: TrainResult, tmp_path: Path) -> None:
    spec = {"every": 2, "keep": 5}
    plain = recipe(studio, checkpoint=spec)
    train(plain, output=tmp_path / "plain")
    judged = recipe(studio, checkpoint=spec | {"judge": {"every": 2}})
    train(judged, output=tmp_path / "judged", judge=Scripted(0, 0, 1, 0, 0))
    for step in (2, 4, 6, 8, 10):
        ours, theirs = (
            state(tmp_path / name / "checkpoints" / f"step-{step:08d}")
            for name in ("judged", "plain")
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def state(checkpoint: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(checkpoint / "state.pt", weights_only=True)[
        "weights"
    ]
    return weights


def test_it_ends_when_the_scores_turn_and_keeps_the_best(studio: Path, tmp_path: Path) -> None:
    wanted = asked(studio, patience=2)
    judge = Scripted(0.1, 0.4, 0.3, 0.2)
    result = train(wanted, output=tmp_path / "run", judge=judge)
    assert (result.steps, len(judge.seen)) == (4, 4)  # judged at 2, 4, 6, 8
    assert result.package.digest == judge.seen[1]
    assert kept(tmp_path / "run") == [4, 8]
    again = train(wanted, output=tmp_path / "run", resume=True, judge=Scripted())
    assert (again.steps, again.package.digest) == (4, result.package.digest)


def test_a_run_that_was_killed_after_it_turned_trains_no_further(
    studio: Path, tmp_path: Path
) -> None:
    wanted, output = asked(studio, patience=1), tmp_path / "run"
    whole = train(wanted, output=tmp_path / "whole", judge=Scripted(0.4, 0.3))
    train(wanted, output=output, judge=Scripted(0.4, 0.3))
    for file in (output / "package").iterdir():
        file.unlink()
    (output / "package").rmdir()  # as if it was killed before the package was written
    ended = train(wanted, output=output, resume=True, judge=Scripted())
    assert (ended.steps, ended.package.digest) == (2, whole.package.digest)
    assert kept(output) == [2, 4]


@pytest.mark.parametrize("stopped_at", [3, 5], ids=["in the middle", "after the last step"])
def test_sigterm_does_not_wait_for_a_score_and_loses_none(
    studio: Path, tmp_path: Path, stopped_at: int
) -> None:
    wanted, calls = asked(studio), 0

    def term() -> None:
        nonlocal calls
        calls += 1
        if calls == stopped_at:
            os.kill(os.getpid(), signal.SIGTERM)

    output, margins = tmp_path / "run", (0.1, 0.2, 0.5, 0.4, 0.3)
    judge = Scripted(*margins, act=term)
    with pytest.raises(Interrupted, match=f"judging step {2 * stopped_at}; continue with"):
        train(wanted, output=output, judge=judge)
    result = train(wanted, output=output, resume=True, judge=judge)
    assert result.steps == 6
    margins_of = json.loads(curve(output))["scores"].values()
    assert [score["margin"] for score in margins_of] == list(margins)


def test_a_stop_at_the_last_step_leaves_its_score_to_the_next_run(
    studio: Path, tmp_path: Path
) -> None:
    wanted, judge = asked(studio), Scripted(0.1, 0.2, 0.3, 0.4, 0.5)
    with pytest.raises(Interrupted, match="stopped after step 10 of 10"):
        train(wanted, output=tmp_path / "run", judge=judge, until=STEPS)
    assert train(wanted, output=tmp_path / "run", resume=True, judge=judge).steps == STEPS


class Noted(Silence):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_another_policy_starts_another_curve(studio: Path, tmp_path: Path) -> None:
    wanted, output = asked(studio), tmp_path / "run"
    with pytest.raises(Interrupted):
        train(wanted, output=output, judge=Scripted(0.1, 0.2), until=5)
    judge, noted = Scripted(0.3, 0.2, 0.1), Noted()
    judge.digest = "sha256:other"
    assert train(wanted, output=output, resume=True, judge=judge, progress=noted).steps == 6
    assert any("the policy has changed" in note for note in noted.notes)
    assert list(json.loads(curve(output))["scores"]) == ["6", "8", "10"]


def test_any_checkpoint_becomes_the_package_that_the_run_would_have_written(
    studio: Path, unbroken: TrainResult, tmp_path: Path
) -> None:
    wanted, output = asked(studio, keep=5), tmp_path / "run"
    judge = Scripted(0.5, 0.4, 0.3, 0.2, 0.1)
    result = train(wanted, output=output, judge=judge)
    assert result.steps == 2
    for index, step in enumerate(range(2, STEPS + 1, EVERY)):
        assert package_of_checkpoint(wanted, output, step).digest == judge.seen[index]
    assert Package.open(output / "package").digest == result.package.digest
    with pytest.raises(BadInput, match="no checkpoint of step 7; it has those of: 2, 4, 6, 8, 10"):
        package_of_checkpoint(wanted, output, 7)
    with pytest.raises(BadInput, match="contains a run of another recipe"):
        package_of_checkpoint(asked(studio), output, 2)
    with pytest.raises(BadInput, match="contains no run"):
        package_of_checkpoint(wanted, tmp_path / "nothing", 2)


def test_the_command_makes_a_package_of_a_checkpoint(studio: Path, unbroken: TrainResult) -> None:
    file, output = str(file_of(studio, asked(studio))), str(studio / "unbroken")
    words = ["train", file, "--output", output, "--from-checkpoint"]
    made = CliRunner().invoke(app, [*words, str(unbroken.steps), "--json"])
    assert made.exit_code == 0
    answer = json.loads(made.stdout)
    assert answer["digest"] == unbroken.package.digest
    assert answer["steps"] == unbroken.steps
    assert Package.open(Path(answer["package"])).path.name == f"package-step-{unbroken.steps:08d}"
    assert CliRunner().invoke(app, [*words, "3"]).exit_code == 2
    assert CliRunner().invoke(app, [*words, "2", "--resume"]).exit_code == 2


def test_what_cannot_be_judged_is_refused(studio: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"checkpoint\.judge needs a policy"):
        train(asked(studio), output=tmp_path / "run")
    plain = str(file_of(studio, recipe(studio)))
    words = ["train", plain, "--output", str(tmp_path / "run")]
    refused = CliRunner().invoke(app, [*words, "--policy", str(studio / "policy.json")])
    assert refused.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_two_processes_choose_together(studio: Path, tmp_path: Path) -> None:
    file = str(file_of(studio, asked(studio, patience=1)))
    command = [sys.executable, "-m", "commands", "train", file, "--processes", "2"]
    command += ["--output", str(tmp_path / "run"), "--policy", str(studio / "policy.json")]
    ended = subprocess.run(
        [*command, "--json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    scores = json.loads(curve(tmp_path / "run"))["scores"]
    margins = [score["margin"] for score in scores.values()]
    best = max(margins)
    answer = json.loads(ended.stdout)
    assert answer["steps"] == int(list(scores)[margins.index(best)])
    turned = margins.index(best) < len(margins) - 1
    assert turned or len(scores) == STEPS // EVERY
