"""Real trainings of a tiny base: what they leave behind, and how a killed one goes on."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atelier.adapter.package import ADAPTER, Package
from atelier.adapter.safetensors_header import read_header
from atelier.errors import BadInput, Interrupted
from pipelines.dataset import open_folder
from pipelines.train import TrainResult, train
from pipelines.train.progress import Silence
from services.engine import Engine, EngineSettings, load_base
from tests.training import (
    STEPS,
    TOLD,
    Saboteur,
    file_of,
    killed,
    make_studio,
    metrics,
    recipe,
    unbroken_and_resumed,
)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, pictures, and a home of the module's own."""
    return make_studio(tmp_path_factory.mktemp("studio"))


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


def test_the_package_is_what_the_recipe_asked_for(studio: Path, unbroken: TrainResult) -> None:
    package = Package.open(studio / "unbroken/package", digest=unbroken.package.digest)
    manifest, asked = package.manifest, recipe(studio, **TOLD)
    assert (manifest.name, manifest.rank, manifest.alpha) == ("tiny-cat", 4, 2.0)
    assert manifest.trigger == "sks cat"
    assert manifest.noun == "cat"
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

    from pipelines.train.trainable_lora import put_into
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
    other = recipe(studio, **TOLD, trigger="zwx cat")
    mine = recipe(studio, **TOLD)
    with pytest.raises(BadInput, match=rf"recipe was {mine.digest}, is now {other.digest}"):
        train(other, output=studio / "unbroken", resume=True)


def test_killed_anywhere_it_ends_bit_for_bit_where_the_unbroken_run_ends(
    studio: Path, unbroken: TrainResult, tmp_path: Path
) -> None:
    file = file_of(studio, recipe(studio, **TOLD))
    output = tmp_path / "killed"
    run = [str(file), "--output", str(output), "--resume"]
    assert killed(run, passes=6)  # step 3, between its two batches, before any checkpoint
    assert killed(run, flush="checkpoints/.step-00000008")
    half, whole = sorted(path.name for path in (output / "checkpoints").iterdir())
    assert half.startswith(".step-00000008.")
    assert whole == "step-00000004"
    assert killed(run, passes=2 * 5)  # step 9, after the checkpoint that it writes this time
    ended = train(recipe(studio, **TOLD), output=output, resume=True)
    assert not list((output / "checkpoints").glob(".*"))
    assert ended.package.digest == unbroken.package.digest
    assert len(runs_of(studio, output)) == 1
    for sample in (output / "samples").iterdir():
        assert sample.read_bytes() == (studio / "unbroken/samples" / sample.name).read_bytes()


class ImpatientFromTheStart(Silence):
    """Asks to stop as soon as class pictures are begun."""

    def note(self, text: str) -> None:
        if text.startswith("class pictures"):
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_waits_for_no_class_picture(
    studio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATELIER_HOME", str(tmp_path / "home"))
    asked = recipe(studio, stages__0__train__steps=3, stages__0__train__warmup=0)
    with pytest.raises(
        Interrupted, match="while generating class pictures; continue with --resume"
    ):
        train(asked, output=tmp_path / "run", progress=ImpatientFromTheStart())
    assert not list((tmp_path / "home/cache/class-pictures").rglob("*.png"))
    assert train(asked, output=tmp_path / "run", resume=True).steps == 3
    assert len(list((tmp_path / "home/cache/class-pictures").rglob("*.png"))) == 3


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


def test_bf16_trains_what_fp32_trains_and_resumes_bit_for_bit(
    studio: Path, unbroken: TrainResult, tmp_path: Path
) -> None:
    asked = recipe(studio, stages__0__train__precision="bf16", stages__0__train__steps=3)
    whole, resumed = unbroken_and_resumed(asked, tmp_path, until=2)
    assert resumed.package.digest == whole.package.digest
    header = read_header(whole.package.path / ADAPTER)
    assert {entry.dtype for entry in header.tensors.values()} == {"F32"}  # the pairs' own format
    lora = whole.package.lora()
    assert all(np.isfinite(pair.A).all() and np.isfinite(pair.B).all() for pair in lora.values())
    assert all(pair.B.any() for module, pair in lora.items() if module.startswith("unet."))
    # Same pictures and noise: the first loss is fp32's but for the rounding of eight bits.
    first, wide = (
        metrics(run)[0]["loss_instance"] for run in (tmp_path / "unbroken", studio / "unbroken")
    )
    assert first == pytest.approx(wide, rel=0.01)
    assert first != wide
