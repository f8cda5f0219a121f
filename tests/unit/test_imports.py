"""Processes import at their start what they need there: a start costs no torch that nobody uses."""

import gc
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from atelier.imports import collection_paused

HEAVY = {
    "aiohttp",
    "diffusers",
    "fastapi",
    "grpc",
    "huggingface_hub",
    "kubernetes",
    "matplotlib",
    "mlflow",
    "model_signing",
    "numpy",
    "onnxruntime",
    "pandas",
    "PIL",
    "scipy",
    "sqlalchemy",
    "torch",
    "transformers",
    "tritonclient",
    "wandb",
}
SERVES = {"aiohttp", "fastapi", "grpc", "numpy", "PIL", "sqlalchemy", "tritonclient"}
PICTURES = {"numpy", "PIL"}


def imported(*words: str, code: int = 0) -> tuple[set[str], str]:
    """The packages that Python imports when it is started with these words, and its last words."""
    command = [sys.executable, "-X", "importtime", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    said = "\n".join(line for line in done.stderr.splitlines() if line not in lines)
    assert done.returncode == code, said
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}, said


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (("-m", "commands", "--help"), set()),
        (("-m", "commands", "promote", "--help"), set()),
        (("-m", "pipelines.compile.compile_job", "--help"), set()),
        (("-m", "pipelines.delivery.cluster.hook", "--help"), PICTURES),
        (("-m", "pipelines.training_job", "--help"), PICTURES),
        (("-m", "pipelines.train", "--help"), set()),
        (("-c", "import services.agent.__main__"), {"numpy"}),
        (("-c", "import services.gateway.__main__"), SERVES),
        (("-c", "import services.storage.__main__"), set()),
        (("-c", "import services.triton.__main__"), set()),
    ],
    ids=lambda value: value[1].removeprefix("import ") if isinstance(value, tuple) else "",
)
def test_a_start_imports_nothing_heavy_that_it_does_not_use(
    words: tuple[str, ...], allowed: set[str]
) -> None:
    found, _ = imported(*words)
    assert found & {"commands", "pipelines", "services"}
    assert found & HEAVY <= allowed


def test_a_damaged_picture_is_found_without_torch(tmp_path: Path) -> None:
    shutil.copytree("examples/thor-cat", tmp_path, dirs_exist_ok=True)
    damaged = tmp_path / "images/03-desert.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    found, said = imported("-m", "commands", "run", str(tmp_path / "recipe.yaml"), code=2)
    assert "03-desert.png" in said
    assert not found & {"torch", "diffusers", "mlflow"}


def test_one_collection_follows_an_import_of_the_engine_and_none_runs_in_it() -> None:
    counted = "import gc; passes = []; gc.callbacks.append(lambda phase, _: passes.append(phase))"
    code = f"import services.engine; {counted}; services.engine.EngineSettings; print(*passes)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout in ("\n", "start stop\n")  # five passes without a pause


def test_the_collector_is_left_as_it_was() -> None:
    with pytest.raises(ImportError), collection_paused():
        assert not gc.isenabled()
        with collection_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
