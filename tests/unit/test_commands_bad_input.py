"""Bad input on the command line: one clear line, the right exit code, nothing written."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from atelier.adapter.package import write_package
from atelier.data.manifest import BaseRef
from atelier.data.recipe import Recipe
from atelier.home import Home
from atelier.platform.jobs import CompilationSpec, TrainingSpec
from atelier.stores.base_files import base_digest
from commands.main import app

ROOT = Path(__file__).resolve().parents[2]
RECIPE = (ROOT / "examples" / "thor-cat" / "recipe.yaml").read_text()
SHAPES = {"lora_A": (2, 4), "lora_B": (4, 2)}


def atelier(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def told(result: Result, code: int) -> str:
    """The one thing that was said, once it is known to be well said."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("atelier: ") and "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture
def package(tmp_path: Path) -> Path:
    tensors = {
        f"unet.mid_block.attentions.0.proj_in.{part}.weight": np.ones(shape, np.float32)
        for part, shape in SHAPES.items()
    }
    base = BaseRef(id="models/none", digest="sha256:" + "0" * 64)
    return write_package(tmp_path / "package", tensors, name="thor-cat", base=base).path


def test_a_misspelt_key_of_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.replace("rank: 16", "rnak: 16"))
    text = told(atelier("train", file), 2)
    assert "recipe.yaml" in text and "rnak" in text and "rank" in text


def test_another_adapter_s_broken_recipe_stops_no_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package's own recipe is looked for among all that are here."""
    monkeypatch.chdir(tmp_path)
    broken = RECIPE.replace("rank: 16", "rnak: 16").replace("adapter: thor-cat", "adapter: other")
    for name, text in (("a-broken", broken), ("thor", RECIPE)):
        (tmp_path / "adapters" / name).mkdir(parents=True)
        (tmp_path / "adapters" / name / "recipe.yaml").write_text(text)
    recipe = Recipe.load(tmp_path / "adapters/thor/recipe.yaml")
    base = BaseRef(id="models/none", digest="sha256:" + "0" * 64)
    tensors = {
        f"unet.mid_block.attentions.0.proj_in.{part}.weight": np.ones(shape, np.float32)
        for part, shape in SHAPES.items()
    }
    write_package(tmp_path / "good", tensors, name="thor", base=base, recipe=recipe.digest)
    text = told(atelier("evaluate", tmp_path / "good"), 2)
    assert "rnak" not in text  # it went on to the pictures, which are not here
    assert "adapters/thor/images: no such folder" in text
    other = {"recipe": "sha256:" + "1" * 64}
    write_package(tmp_path / "lost", tensors, name="thor", base=base, **other)
    text = told(atelier("evaluate", tmp_path / "lost"), 2)
    assert "no recipe in adapters or examples has the recipe digest" in text
    assert "could not be read" in text and "a-broken/recipe.yaml" in text and "rnak" in text


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    assert "nowhere.yaml" in told(atelier("train", tmp_path / "nowhere.yaml"), 2)


def test_an_empty_folder_of_pictures_is_told_as_a_finding(tmp_path: Path) -> None:
    result = atelier("dataset", "lint", tmp_path)
    assert result.exit_code == 1
    assert result.stdout.startswith("error: ") and "1 error" in result.stdout


def test_good_pictures_pass(tmp_path: Path) -> None:
    result = atelier("dataset", "lint", ROOT / "examples" / "thor-cat" / "images", "--json")
    assert result.exit_code == 0
    assert '"errors": 0' in result.stdout


def test_a_package_with_a_changed_byte(package: Path) -> None:
    file = package / "adapter.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert "changed or damaged" in told(atelier("adapters", "inspect", package), 2)


def test_a_whole_package_tells_about_itself(package: Path) -> None:
    result = atelier("adapters", "inspect", package)
    assert result.exit_code == 0
    assert "thor-cat" in result.stdout and "1 in unet" in result.stdout


def test_a_pickle_named_safetensors(tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    file.write_bytes(pickle.dumps({"weights": 1}))
    out = tmp_path / "out"
    given = ("--name", "x", "--base", some_base(tmp_path), "--output", out)
    assert "pickle" in told(atelier("adapters", "import", file, *given), 2)
    assert not out.exists()


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--steps", 0, "steps"),
        ("--steps", 1000, "steps"),
        ("--width", 100, "try"),
        ("--seed", 2**64, "seed"),
        ("--seed", -1, "seed"),
        ("--guidance-scale", "nan", "guidance_scale"),
        ("--scheduler", "eulr", "euler"),
    ],
)
def test_what_no_engine_could_draw(tmp_path: Path, option: str, value: object, word: str) -> None:
    out = tmp_path / "cat.png"
    text = told(atelier("generate", "a cat", "--out", out, f"{option}={value}"), 2)
    assert word in text
    assert not out.exists()


def test_an_adapter_whose_folder_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "cat.png"
    nowhere = tmp_path / "nowhere"
    text = told(atelier("generate", "a cat", "--out", out, "--adapter", nowhere), 2)
    assert str(nowhere) in text


def test_a_gateway_that_is_away(tmp_path: Path) -> None:
    given = ("--out", tmp_path / "cat.png", "--url", "http://127.0.0.1:9", "--key", "atl_x_y")
    assert "atelier serve" in told(atelier("generate", "a cat", *given), 3)


def test_a_gateway_serves_no_folders(tmp_path: Path, package: Path) -> None:
    given = ("--out", tmp_path / "cat.png", "--url", "http://127.0.0.1:9", "--adapter", package)
    assert "by name only" in told(atelier("generate", "a cat", *given), 2)


def test_a_picture_of_somebody_else_has_no_trace(tmp_path: Path) -> None:
    file = tmp_path / "other.png"
    Image.new("RGB", (8, 8)).save(file)
    assert "Atelier did not generate it" in told(atelier("trace", file), 1)


def test_a_file_that_is_no_picture_cannot_be_traced(tmp_path: Path) -> None:
    file = tmp_path / "text.png"
    file.write_text("hello")
    assert "cannot be read as an image" in told(atelier("trace", file), 2)
    assert "nowhere.png" in told(atelier("trace", tmp_path / "nowhere.png"), 2)


def test_a_verdict_needs_the_pictures_that_were_trained_on(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(package.parent)
    shutil.rmtree(package.parent / "examples", ignore_errors=True)
    assert "--recipe" in told(atelier("evaluate", package), 2)


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [
        ("ATELIER_PRECISION", "fp8", "must be one of auto, fp32, fp16, bf16"),
        ("ATELIER_SLOTS", "0", "must be at least 1"),
        ("ATELIER_DRAIN_SECONDS", "x", "must be a number (Seconds"),
        ("ATELIER_TRITONSERVER", "/nowhere/tritonserver", "no such program"),
        ("ATELIER_GATEWAY_MAX_STEPS", "many", "must be a whole number"),
        ("ATELIER_SIGNATURES", "on", "must be one of off, warn, enforce"),
        ("ATELIER_INFLIGHT", "0", "must be at least 1"),
    ],
)
def test_settings_that_no_replica_could_serve_by(
    package: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, word: str
) -> None:
    monkeypatch.setenv(variable, value)
    text = told(atelier("serve", "--base", some_base(package.parent), "--port", 0), 2)
    assert variable in text and word in text and text.count("\n") == 1
    assert not (Home.find().root / "logs").exists()  # nothing was started


def test_a_base_or_a_vae_that_cannot_be_served(tmp_path: Path) -> None:
    base = some_base(tmp_path)
    assert "a folder has no revision" in told(
        atelier("serve", "--base", base, "--revision", "main", "--port", 0), 2
    )
    vae = tmp_path / "vae"
    assert "no such folder" in told(atelier("serve", "--base", base, "--vae", vae), 2)
    vae.mkdir()
    assert "no config.json" in told(atelier("serve", "--base", base, "--vae", vae), 2)
    assert not (Home.find().root / "logs").exists()


def some_base(folder: Path) -> Path:
    """Enough of one to be found."""
    (folder / "base" / "unet").mkdir(parents=True)
    (folder / "base" / "model_index.json").write_text('{"unet": ["diffusers", "X"]}')
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (folder / "base" / "unet" / name).write_text("{}")
    return folder / "base"


def test_nothing_serves_in_an_empty_home() -> None:
    result = atelier("status")
    assert result.exit_code == 0 and "atelier serve" in result.stdout


def test_a_submission_that_no_pod_could_carry_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = ROOT / "examples/thor-cat/recipe.yaml"
    assert "ATELIER_TRAIN_IMAGE" in told(atelier("submit", recipe), 2)
    monkeypatch.setenv("ATELIER_TRAIN_IMAGE", "registry.example/atelier-train:1")
    assert "name the queue" in told(atelier("submit", recipe, "--priority", "urgent"), 2)
    assert "MLFLOW_TRACKING_URI" in told(atelier("submit", recipe), 2)


def test_a_job_is_shown_without_a_registry_or_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its digests are those of the miniature and of the pictures in the repository."""
    monkeypatch.chdir(ROOT)
    asked = ["submit", "examples/thor-cat/recipe.yaml", "--image", "i", "--dry-run"]
    shown = atelier(*asked, "--gpus", "2")
    assert shown.exit_code == 0, shown.output
    job = yaml.safe_load(shown.stdout)
    spec = TrainingSpec.parse(job["metadata"]["annotations"]["atelier.dev/spec"])
    assert (spec.adapter, spec.processes) == ("thor-cat", 2)
    assert spec.base == base_digest(ROOT / "models/miniature")
    assert job["metadata"]["name"] == spec.job_name("staging")
    assert json.loads(atelier(*asked, "--gpus", "2", "--json").stdout) == job
    assert not Home.find().root.exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--queue", "gpu"], "add --submit"),
        (["--submit"], "ATELIER_TRAIN_IMAGE"),
        (["--submit", "--image", "i"], "MLFLOW_TRACKING_URI"),
        (["--submit", "--image", "i", "--device", "cpu"], "leave them out"),
        (["--submit", "--image", "i", "--priority", "urgent"], "name the queue"),
        (["--submit", "--image", "i", "--batch", "2"], "omit them"),
        (["--submit", "--image", "i", "--gpus", "2"], "set --gpus to 0 or 1"),
        (["--submit", "--image", "i", "--gpu-kind", "NVIDIA-L4"], "the Job has no GPUs"),
        (["--submit", "--backend", "tensorrt", "--gpus", "0"], "set --gpus to 1"),
        (["--submit", "--image", "i", "--precision", "bf16", "--dry-run"], "use fp16 or fp32"),
        (["--submit", "--sizes", "64"], "WIDTHxHEIGHT"),
    ],
)
def test_a_compilation_that_no_pod_could_carry_out(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], word: str
) -> None:
    monkeypatch.chdir(ROOT)
    assert word in told(atelier("compile", *arguments), 2)
    assert not Home.find().root.exists()


def test_a_compile_job_is_shown_without_a_registry_or_a_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    asked = ["compile", "--submit", "--backend", "tensorrt", "--image", "r/i@sha256:1", "--dry-run"]
    sizes = ["--batch", "4", "--batch", "2", "--sizes", "128x64"]
    shown = atelier(*asked, *sizes)
    assert shown.exit_code == 0, shown.output
    job = yaml.safe_load(shown.stdout)
    spec = CompilationSpec.parse(job["metadata"]["annotations"]["atelier.dev/spec"])
    assert spec.base == base_digest(ROOT / "models/miniature")
    assert (spec.precision, spec.batches, spec.sizes) == ("fp16", (2, 4), ((128, 64),))
    assert spec.image == "sha256:1"  # wherever it is pulled from
    assert job["metadata"]["name"] == spec.job_name
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"] == "r/i@sha256:1"
    plain = json.loads(atelier("compile", "--submit", *asked[4:], "--json").stdout)
    (container,) = plain["spec"]["template"]["spec"]["containers"]
    assert CompilationSpec.parse(container["command"][-1]).precision == "fp32"
