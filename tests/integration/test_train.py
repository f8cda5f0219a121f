"""Real trainings of a tiny base: what they leave behind, how they stop, and how they go on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from atelier.adapter.package import Package
from atelier.errors import BadInput, Interrupted, RecipeError, Refused, Unavailable
from atelier.files import sha256_file
from atelier.recipe import Recipe
from pipelines.dataset import open_folder
from pipelines.train import TrainResult, train
from pipelines.train.__main__ import main
from pipelines.train.draws import Draws
from pipelines.train.loop import Report
from pipelines.train.material import Material
from pipelines.train.methods import METHODS
from pipelines.train.methods.dreambooth import DreamBooth
from pipelines.train.progress import Silence
from services.engine import Engine, EngineSettings, load_base
from tests.tiny import tiny_base

ROOT = Path(__file__).parents[2]
STEPS = 10

# Kills its own process in the middle of things: at the n-th backward pass, or at the first flush of
# a file whose path holds a text.
KILLER = """
import os, runpy, signal, sys
import torch

passes, text = int(sys.argv.pop(1)), sys.argv.pop(1)
flush, backward = os.fsync, torch.Tensor.backward

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def fsync(descriptor):
    if text in os.readlink(f"/proc/self/fd/{descriptor}"):
        die()
    flush(descriptor)

def counted(*arguments, **named):
    global passes
    passes -= 1
    return die() if passes == 0 else backward(*arguments, **named)

os.fsync, torch.Tensor.backward = fsync, counted
runpy.run_module("pipelines.train", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, five captioned pictures of different shapes, and a home of the module's own."""
    folder = tmp_path_factory.mktemp("studio")
    tiny_base(folder / "base")
    (folder / "images").mkdir()
    lines = []
    for index in range(5):
        noise = np.random.default_rng(index).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        size = (96, 96) if index < 3 else (128, 80)
        Image.fromarray(noise).resize(size).save(folder / f"images/{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", "text": "on the beach"}))
    (folder / "images/metadata.jsonl").write_text("\n".join(lines[:4]))
    return folder


def recipe(studio: Path, **changes: Any) -> Recipe:
    """Every feature at once: text encoders, prior, accumulation, shapes, alpha ≠ rank."""
    document: dict[str, Any] = {
        "adapter": "tiny-cat",
        "base": {"model": str(studio / "base")},
        "trigger": "sks cat",
        "styles": {"night": "{prompt} at night"},
        "stages": [
            {
                "method": "dreambooth",
                "dataset": {
                    "path": "images", "resolution": 64, "crop": "none", "captions": "text",
                },
                "prompt": "a photo of {trigger} {caption}",
                "prior": {"prompt": "a photo of a cat", "images": 3},
                "lora": {
                    "rank": 4,
                    "alpha": 2,
                    "targets": ["attn", "ff", "proj", "text_encoder", "text_encoder_2"],
                },
                "train": {
                    "steps": STEPS, "batch": 2, "accumulate": 2, "lr": 0.01, "snr_gamma": 5.0,
                    "schedule": "cosine", "warmup": 2,
                },
            }
        ],
        "checkpoint": {"every": 4, "keep": 2},
        "tracking": {"mlflow": False},
    }  # fmt: skip
    for path, value in changes.items():
        *parents, last = path.split("__")
        place: Any = document
        for parent in parents:
            place = place[int(parent)] if isinstance(place, list) else place[parent]
        place[last] = value
    file = studio / f"{abs(hash(json.dumps(document, sort_keys=True)))}.yaml"
    file.write_text(yaml.safe_dump(document))
    return Recipe.load(file)


TOLD: dict[str, Any] = {
    "tracking": {"mlflow": True, "wandb": {"project": "atelier", "mode": "offline"}},
    "validation": {"prompts": ["{trigger} on the beach"], "every": 5, "steps": 2},
}


@pytest.fixture(scope="module")
def unbroken(studio: Path) -> Iterator[TrainResult]:
    """The whole recipe, told to MLflow and W&B, in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATELIER_HOME", str(studio / "home"))
        patch.setenv("WANDB_MODE", "offline")
        yield train(recipe(studio, **TOLD), output=studio / "unbroken")


@pytest.fixture(autouse=True)
def _home(studio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module's home, which keeps the class pictures."""
    monkeypatch.setenv("ATELIER_HOME", str(studio / "home"))


def last_step(output: Path) -> int:
    log = output / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return max((e["data"]["step"] for e in events if e["kind"] == "metrics"), default=0)


def test_the_package_is_what_the_recipe_asked_for(studio: Path, unbroken: TrainResult) -> None:
    package = Package.open(studio / "unbroken/package", digest=unbroken.package.digest)
    manifest, asked = package.manifest, recipe(studio, **TOLD)
    assert (manifest.name, manifest.rank, manifest.alpha) == ("tiny-cat", 4, 2.0)
    assert manifest.trigger == "sks cat"
    assert manifest.class_prompt == "a photo of a cat"
    assert manifest.styles == {"night": "{prompt} at night"}
    assert manifest.recipe == asked.digest
    assert manifest.dataset == open_folder(studio / "images", "text").digest
    components = {module.split(".")[0] for module in package.lora()}
    assert components == {"unet", "text_encoder", "text_encoder_2"}
    assert unbroken.steps == STEPS
    assert sorted(path.name for path in (studio / "unbroken/samples").iterdir()) == [
        "step-00000005-0.png",
        "step-00000010-0.png",
    ]


def test_diffusers_loads_it_with_its_true_scale(studio: Path, unbroken: TrainResult) -> None:
    from diffusers import StableDiffusionXLPipeline

    from pipelines.train.lora import put_into
    from services.engine.banked import share

    pipeline = StableDiffusionXLPipeline.from_pretrained(studio / "base")
    pipeline.load_lora_weights(unbroken.package.path, weight_name="adapter.safetensors")
    base = load_base(studio / "base")
    parts = ("unet", "text_encoder", "text_encoder_2")
    networks = {name: share(getattr(base, name)) for name in parts}
    targets = recipe(studio).stages[0].lora.targets
    layers = put_into(networks, targets, rank=4, alpha=2.0, seed=0)
    lora = unbroken.package.lora()
    for module, layer in layers.items():
        layer.A.data.copy_(torch.from_numpy(lora[module].A))
        layer.B.data.copy_(torch.from_numpy(lora[module].B))
    torch.manual_seed(0)
    tokens = torch.randint(0, 300, (2, 77))
    latents, text, levels = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 40), torch.tensor([10, 900])
    added = {"text_embeds": torch.randn(2, 24), "time_ids": torch.full((2, 6), 64.0)}
    with torch.no_grad():
        for name in parts[1:]:
            theirs, ours = getattr(pipeline, name)(tokens)[0], networks[name](tokens)[0]
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
        ours, theirs, plain = (
            unet(latents, levels, text, added_cond_kwargs=added).sample
            for unet in (networks["unet"], pipeline.unet, base.unet)
        )
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    assert (ours - plain).abs().max() > 1e-3


def test_the_engine_serves_it(studio: Path, unbroken: TrainResult) -> None:
    engine = Engine(load_base(studio / "base"), EngineSettings(slots=1, max_rank=4))
    assert engine.adapters.add(unbroken.package, 1).digest == unbroken.package.digest
    engine.close()


def test_mlflow_and_wandb_hold_the_run_and_name_each_other(
    studio: Path, unbroken: TrainResult
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{studio / 'home' / 'mlflow.db'}")
    run = client.get_run(unbroken.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.lr"] == "0.01"
    assert run.data.params["lora.alpha"] == "2.0"
    assert run.data.tags["atelier.recipe"] == recipe(studio, **TOLD).digest
    assert run.data.tags["atelier.digest"] == unbroken.package.digest
    curve = client.get_metric_history(unbroken.run_id, "loss_prior")
    assert sorted(point.step for point in curve) == list(range(1, STEPS + 1))
    stored = {one.path for one in client.list_artifacts(unbroken.run_id, "package")}
    assert stored == {"package/adapter.safetensors", "package/manifest.json"}
    assert len(client.list_artifacts(unbroken.run_id, "samples")) == 2
    offline = list((studio / "unbroken/wandb/wandb").glob("offline-run-*"))
    assert len(offline) == 1
    assert offline[0].name.endswith(run.data.tags["wandb.run_id"])
    assert unbroken.run_id.encode() in next(offline[0].glob("*.wandb")).read_bytes()


def runs_of(studio: Path, output: Path) -> list[Any]:
    """MLflow's runs of what was trained into a folder."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{studio / 'home' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("atelier-tiny-cat")
    runs = client.search_runs([experiment.experiment_id])
    return [run for run in runs if run.data.tags.get("atelier.output") == str(output)]


def test_going_on_with_a_finished_run_changes_nothing(studio: Path, unbroken: TrainResult) -> None:
    again = train(recipe(studio, **TOLD), output=studio / "unbroken", resume=True)
    assert again.package.digest == unbroken.package.digest
    assert again.run_id == unbroken.run_id
    (run,) = runs_of(studio, studio / "unbroken")
    assert run.info.run_id == unbroken.run_id
    assert run.info.status == "FINISHED"


def test_a_folder_with_a_run_is_not_trained_over(studio: Path, unbroken: TrainResult) -> None:
    with pytest.raises(BadInput, match="--resume"):
        train(recipe(studio, **TOLD), output=studio / "unbroken")
    other = recipe(studio, **TOLD, trigger="sks dog")
    mine = recipe(studio, **TOLD)
    with pytest.raises(BadInput, match=rf"recipe {mine.digest} \(now {other.digest}\)"):
        train(other, output=studio / "unbroken", resume=True)


def killed(run: list[str], *, passes: int = 0, flush: str = "nothing") -> bool:
    """Whether a training in a process of its own died where it was to."""
    arguments = [sys.executable, "-c", KILLER, str(passes), flush, *run]
    return subprocess.run(arguments, cwd=ROOT, check=False).returncode == -signal.SIGKILL


def test_killed_anywhere_it_ends_bit_for_bit_where_the_unbroken_run_ends(
    studio: Path, unbroken: TrainResult, tmp_path: Path
) -> None:
    file = next(p for p in studio.glob("*.yaml") if Recipe.load(p) == recipe(studio, **TOLD))
    output = tmp_path / "killed"
    run = [str(file), "--output", str(output), "--resume"]
    assert killed(run, passes=6)  # step 3, between its two batches, before any checkpoint
    assert killed(run, flush=".writing-00000008")
    left = sorted(path.name for path in (output / "checkpoints").iterdir())
    assert left == [".writing-00000008", "step-00000004"]
    assert killed(run, passes=2 * 5)  # step 9, after the checkpoint that it writes this time
    ended = subprocess.run([sys.executable, "-m", "pipelines.train", *run], cwd=ROOT, check=False)
    assert ended.returncode == 0
    assert not list((output / "checkpoints").glob(".writing-*"))
    own, other = output / "package", unbroken.package.path
    assert sha256_file(own / "adapter.safetensors") == sha256_file(other / "adapter.safetensors")
    assert len(runs_of(studio, output)) == 1
    for sample in (output / "samples").iterdir():
        assert sample.read_bytes() == (studio / "unbroken/samples" / sample.name).read_bytes()


class Saboteur(Silence):
    """Does something to the process when a step is reached."""

    def __init__(self, step: int, act: Any) -> None:
        self.step, self.act = step, act

    def update(self, report: Report) -> None:
        if report.step == self.step:
            self.act()


def test_sigterm_leaves_a_checkpoint_and_the_run_goes_on(
    studio: Path, unbroken: TrainResult, tmp_path: Path
) -> None:
    asked = recipe(studio)
    term = Saboteur(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match=r"after step 3 of 10.*--resume") as told:
        train(asked, output=tmp_path / "run", progress=term)
    assert told.value.exit_code == 143
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000003"]
    with pytest.raises(Interrupted):
        train(asked, output=tmp_path / "run", resume=True, until=6)
    result = train(asked, output=tmp_path / "run", resume=True)
    ours, theirs = result.package.lora(), unbroken.package.lora()
    assert all(np.array_equal(ours[m].A, theirs[m].A) for m in theirs)
    assert all(np.array_equal(ours[m].B, theirs[m].B) for m in theirs)


def test_the_command_answers_143_to_sigterm(studio: Path, tmp_path: Path) -> None:
    recipe(studio)
    file = next(p for p in studio.glob("*.yaml") if Recipe.load(p) == recipe(studio))

    def term() -> None:
        while last_step(tmp_path / "run") < 2:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=term, daemon=True).start()
    assert main([str(file), "--output", str(tmp_path / "run")]) == 143


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
    assert main(["--deliver", str(output)]) == 3
    back = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", back)
    assert main(["--deliver", str(output)]) == 0
    client = MlflowClient(back)
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["loss"] > 0
    assert client.list_artifacts(run.info.run_id, "package")


def test_a_loss_that_is_no_number_stops_the_run(studio: Path, tmp_path: Path) -> None:
    wild = recipe(studio, stages__0__train__lr=1e30, stages__0__train__warmup=0)
    with pytest.raises(Refused, match=r"step \d+: the loss is (nan|inf).*learning rate"):
        train(wild, output=tmp_path / "run")
    assert not (tmp_path / "run/package").exists()


def test_what_is_not_built_is_said(studio: Path, tmp_path: Path) -> None:
    twice = recipe(studio)
    twice = twice.model_copy(update={"stages": twice.stages * 2})
    with pytest.raises(RecipeError, match="2 stages; one is what can be trained so far"):
        train(twice, output=tmp_path / "run")
    other = recipe(studio, stages__0__method="text_to_image")
    with pytest.raises(RecipeError, match="text_to_image is not built yet; built: dreambooth"):
        train(other, output=tmp_path / "run")
    half = recipe(studio, stages__0__train__precision="fp16")
    with pytest.raises(RecipeError, match="fp16 needs a GPU"):
        train(half, output=tmp_path / "run")


def prepared(studio: Path, **changes: Any) -> DreamBooth:
    asked = recipe(studio, stages__0__prior=None, **changes)
    stage = asked.stages[0]
    pictures = open_folder(asked.dataset_folder(stage), stage.dataset.captions)
    method = METHODS[stage.method](Material(load_base(studio / "base"), asked, stage, pictures))
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
    assert len(lora) > 100
    assert all(np.abs(pair.B).max() > 0 for pair in lora.values())
