"""Trainings that go wrong or are asked for much: what is said, and what is kept."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from atelier.adapter.package import Package
from atelier.data.recipe import Recipe
from atelier.errors import Interrupted, RecipeError, Refused, Unavailable
from commands.main import app
from pipelines.dataset import open_folder
from pipelines.train import train
from pipelines.train.draws import Draws
from pipelines.train.loop import READ_EVERY
from pipelines.train.methods import METHODS
from pipelines.train.methods.dreambooth import DreamBooth
from pipelines.train.samples import StageInputs
from pipelines.train.tracking.delivery import read_state
from services.engine import load_base
from tests.training import (
    ROOT,
    Saboteur,
    Server,
    SmallDisk,
    file_of,
    last_step,
    make_studio,
    recipe,
)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, pictures, and a home of the module's own."""
    return make_studio(tmp_path_factory.mktemp("studio"))


@pytest.fixture(autouse=True)
def _home(studio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module's home, which keeps the class pictures."""
    monkeypatch.setenv("ATELIER_HOME", str(studio / "home"))


def atelier_train(*arguments: object) -> int:
    """The exit code of `atelier train`."""
    return CliRunner().invoke(app, ["train", *map(str, arguments)]).exit_code


def test_the_command_answers_143_to_sigterm(studio: Path, tmp_path: Path) -> None:
    file = file_of(studio, recipe(studio))

    def term() -> None:
        while last_step(tmp_path / "run") < 2:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=term, daemon=True).start()
    assert atelier_train(file, "--output", tmp_path / "run") == 143


def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_room(
    studio: Path, tmp_path: Path
) -> None:
    asked = recipe(studio, stages__0__train__steps=4, checkpoint={"every": 2, "keep": 2})
    unbroken = train(asked, output=tmp_path / "unbroken")
    state = tmp_path / "unbroken/checkpoints/step-00000004/state.pt"
    with SmallDisk(tmp_path / "disk") as disk:
        output = disk.folder / "run"
        with pytest.raises(Interrupted):
            train(asked, output=output, until=2)
        run = [sys.executable, "-m", "commands", "train", str(file_of(studio, asked))]
        run += ["--output", str(output), "--resume"]
        short = [*disk.leave(state.stat().st_size // 2), *run]
        full = subprocess.run(short, cwd=ROOT, capture_output=True, text=True, check=False)
        assert full.returncode == 3, full.stderr
        assert re.fullmatch(
            rf"atelier: {output}/checkpoints/step-00000004: does not fit on its disk "
            r"\(takes 1 MiB, \d+ MiB free: (No space left on device|File too large)\); "
            "free space, then continue with --resume, because earlier checkpoints are complete",
            full.stderr.splitlines()[-1],
        )
        assert "Traceback" not in full.stderr
        assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-00000002"]
        disk.make_room()
        ended = train(asked, output=output, resume=True)
        assert ended.package.digest == unbroken.package.digest


def test_mlflow_being_away_costs_no_training(
    studio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    asked = recipe(studio, tracking={"mlflow": True}, stages__0__train__steps=3)
    output = tmp_path / "run"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(Unavailable, match=r"--deliver") as told:
        train(asked, output=output)
    assert told.value.exit_code == 3
    assert Package.open(output / "package").manifest.name == "tiny-cat"
    assert atelier_train("--deliver", output) == 3
    back = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", back)
    assert atelier_train("--deliver", output) == 0
    client = MlflowClient(back)
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["loss"] > 0
    assert client.list_artifacts(run.info.run_id, "package")


def test_mlflow_going_away_in_mid_run_is_told_the_rest_later(
    studio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe(studio, tracking={"mlflow": True}, stages__0__train__steps=4)
    output, server = tmp_path / "run", Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)

    def take_away() -> None:
        while "mlflow" not in read_state(output / "delivery.json"):
            time.sleep(0.1)
        server.__exit__()

    server.__enter__()
    with pytest.raises(Unavailable, match="--deliver"):
        train(asked, output=output, progress=Saboteur(2, take_away))
    assert Package.open(output / "package").manifest.name == "tiny-cat"
    begun = read_state(output / "delivery.json")["mlflow"]["identity"]["mlflow.run_id"]
    with server:
        assert atelier_train("--deliver", output) == 0
        from mlflow import MlflowClient

        client = MlflowClient(server.url)
        (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
        assert run.info.run_id == begun
        assert run.info.status == "FINISHED"
        curve = client.get_metric_history(begun, "loss")
        assert sorted({point.step for point in curve}) == [1, 2, 3, 4]
        assert {one.path for one in client.list_artifacts(begun, "package")}


def test_a_loss_that_is_no_number_stops_the_run(studio: Path, tmp_path: Path) -> None:
    wild = recipe(studio, stages__0__train__lr=1e30, stages__0__train__warmup=0)
    with pytest.raises(Refused, match=r"step \d+: the loss is (nan|inf).*learning rate"):
        train(wild, output=tmp_path / "run")
    assert not (tmp_path / "run/package").exists()


def test_a_loss_that_is_no_number_is_found_before_a_picture_is_drawn(
    studio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, whose losses are read now and then: the engine would refuse the adapter."""
    monkeypatch.setitem(READ_EVERY, "cpu", 20)
    wild = recipe(
        studio,
        stages__0__train__lr=1e30,
        stages__0__train__warmup=0,
        stages__0__prior=None,
        validation={"prompts": ["{trigger} on the beach"], "every": 3, "steps": 1},
    )
    with pytest.raises(Refused, match=r"step \d+: the loss is (nan|inf).*learning rate"):
        train(wild, output=tmp_path / "run")
    assert not (tmp_path / "run/samples").exists()


def test_what_is_not_built_is_said(studio: Path, tmp_path: Path) -> None:
    twice = recipe(studio)
    twice = twice.model_copy(update={"stages": twice.stages * 2})
    with pytest.raises(RecipeError, match="2 stages, but only one can be trained"):
        train(twice, output=tmp_path / "run")
    other = recipe(studio, stages__0__method="text_to_image")
    with pytest.raises(RecipeError, match="text_to_image is not implemented; use dreambooth"):
        train(other, output=tmp_path / "run")
    half = recipe(studio, stages__0__train__precision="fp16")
    with pytest.raises(RecipeError, match="fp16 needs a GPU"):
        train(half, output=tmp_path / "run")


def prepared(studio: Path, **changes: Any) -> DreamBooth:
    asked = recipe(studio, stages__0__prior=None, **changes)
    stage = asked.stages[0]
    pictures = open_folder(asked.dataset_folder(stage), stage.dataset.captions)
    method = METHODS[stage.method](StageInputs(load_base(studio / "base"), asked, stage, pictures))
    assert isinstance(method, DreamBooth)
    return method


def test_checkpointed_activations_give_the_same_gradients(studio: Path) -> None:
    gradients = []
    for saving in (False, True):
        method = prepared(studio, stages__0__train__gradient_checkpointing=saving)
        for parameter in method.trainable().values():
            parameter.data.normal_(generator=torch.Generator().manual_seed(1))
        loss = method.loss(Draws(0, 0, 0)).total
        loss.backward()
        gradients.append([p.grad for p in method.trainable().values()])
    for plain, saved in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, saved)


def test_a_prompt_that_is_cut_is_remarked(studio: Path) -> None:
    method = prepared(studio, stages__0__prompt="a photo of {trigger} " + "the hat " * 60)
    assert len(method.remarks) == 1
    assert "beyond 77 tokens" in method.remarks[0]
    assert prepared(studio).remarks == []


def test_random_crops_differ_from_repeat_to_repeat(studio: Path) -> None:
    method = prepared(studio, stages__0__dataset={
        "path": "images", "resolution": 64, "crop": "random", "repeats": 3, "captions": "text",
    })  # fmt: skip
    rows = [row for step in range(8) for row in method.samples.subject(Draws(0, 0, step), 2)]
    corners = {tuple(row.latent.time_ids[2:4].tolist()) for row in rows}
    assert len(corners) > 3
    assert method.samples.prompts == ["a photo of sks cat on the beach", "a photo of sks cat"]


def test_the_example_trains_the_miniature(studio: Path, tmp_path: Path) -> None:
    example = Recipe.load(ROOT / "examples/thor-cat/recipe.yaml").model_dump(mode="json")
    stage = example["stages"][0]
    stage["train"] |= {"steps": 2, "warmup": 0, "batch": 2}
    stage |= {"prior": None, "dataset": stage["dataset"] | {"path": str(studio / "images")}}
    example["base"]["model"] = str(ROOT / "models/miniature")
    example |= {"tracking": {"mlflow": False, "wandb": None}, "validation": None}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(example))
    result = train(Recipe.load(file), output=tmp_path / "run")
    lora = result.package.lora()
    adapted = " ".join(lora)
    assert all(end in adapted for end in ("attn2.to_k", "ff.net.2", "proj_in"))
    # SDXL reads the first encoder's penultimate states: no gradient comes to its last layer.
    still = {
        module.rpartition(".self_attn.")[0] for module, pair in lora.items() if not pair.B.any()
    }
    assert still == {"text_encoder.text_model.encoder.layers.2"}
