"""What the server and its model read from the environment, and where the server comes from."""

from pathlib import Path

import pytest

from atelier.errors import BadInput
from services.engine.settings import EngineSettings
from services.triton.__main__ import main
from services.triton.runtime import Runtime, find_runtime
from services.triton.settings import ModelSettings, ServerSettings

NEEDED = {"ATELIER_BASE": "models/miniature", "ATELIER_VOLUME": "/volume"}


def engine(settings: EngineSettings) -> EngineSettings:
    """What an engine reads of them."""
    return EngineSettings(**{name: getattr(settings, name) for name in EngineSettings.model_fields})


def test_the_model_takes_the_engines_defaults_for_what_is_not_said() -> None:
    settings = ModelSettings.read(NEEDED)
    assert engine(settings) == EngineSettings()
    assert settings.vae is None
    assert (settings.replica, settings.control, settings.drain_seconds) == ("local", None, 25.0)


def test_the_model_reads_what_is_said() -> None:
    said = {
        **NEEDED,
        "ATELIER_REPLICA": "pod-1",
        "ATELIER_VAE": "/vae",
        "ATELIER_SLOTS": "4",
        "ATELIER_MAX_RANK": "16",
        "ATELIER_DEVICE": "cuda:1",
        "ATELIER_CONTROL": "/control",
        "ATELIER_DRAIN_SECONDS": "5",
        "ATELIER_QUEUE": "",  # as a chart leaves a value that nobody set
    }
    settings = ModelSettings.read(said)
    assert engine(settings) == EngineSettings(slots=4, max_rank=16, device="cuda:1")
    assert settings.vae == "/vae"
    assert (settings.replica, settings.control) == ("pod-1", Path("/control"))
    assert settings.drain_seconds == 5.0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"ATELIER_BASE": ""}, "ATELIER_BASE is not set"),
        ({"ATELIER_SLOTS": "many"}, "ATELIER_SLOTS=many: must be a whole number"),
        ({"ATELIER_SLOTS": "0"}, "ATELIER_SLOTS=0: must be at least 1"),
        ({"ATELIER_MAX_BATCH": "1"}, "ATELIER_MAX_BATCH=1: must be at least 2"),
        ({"ATELIER_PRECISION": "fp8"}, "ATELIER_PRECISION=fp8: must be one of auto, fp32"),
        ({"ATELIER_DEVICE": "gpu"}, "ATELIER_DEVICE=gpu: must be auto, cpu, cuda"),
        ({"ATELIER_BACKEND": "tensorrt9"}, "ATELIER_BACKEND=tensorrt9: must be one of torch"),
        (
            {"ATELIER_DRAIN_SECONDS": "soon"},
            "ATELIER_DRAIN_SECONDS=soon: must be a number",
        ),
        ({"ATELIER_DRAIN_SECONDS": "nan"}, "ATELIER_DRAIN_SECONDS=nan"),
        ({"ATELIER_DRAIN_SECONDS": "-1"}, "ATELIER_DRAIN_SECONDS=-1"),
    ],
)
def test_a_variable_that_cannot_be_read_is_named(change: dict[str, str], named: str) -> None:
    with pytest.raises(BadInput, match=named):
        ModelSettings.read({**NEEDED, **change})


def test_the_server_is_not_started_for_settings_that_its_model_cannot_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATELIER_BASE", "models/miniature")
    monkeypatch.setenv("ATELIER_PRECISION", "fp8")
    assert main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("atelier: ATELIER_PRECISION=fp8")


def test_the_server_listens_on_loopback_unless_told_otherwise() -> None:
    base = {"ATELIER_BASE": "models/miniature"}
    settings = ServerSettings.read(base)
    assert (settings.host, settings.http_port, settings.grpc_port) == ("127.0.0.1", 8000, 8001)
    told = ServerSettings.read(
        {**base, "ATELIER_TRITON_HOST": "0.0.0.0", "ATELIER_TRITON_HTTP_PORT": "0"}
    )
    assert (told.host, told.http_port) == ("0.0.0.0", 0)
    with pytest.raises(BadInput, match="ATELIER_TRITON_GRPC_PORT=high"):
        ServerSettings.read({**base, "ATELIER_TRITON_GRPC_PORT": "high"})


def test_the_wheels_backends_are_laid_out_once(tmp_path: Path) -> None:
    runtime = find_runtime(tmp_path)
    assert runtime.executable.name == "tritonserver"
    assert runtime.backends is not None
    stub = runtime.backends / "python" / "triton_python_backend_stub"
    assert stub.exists() and (runtime.backends / "python" / "libtriton_python.so").exists()
    made = stub.lstat().st_ino
    assert find_runtime(tmp_path).backends == runtime.backends
    assert stub.lstat().st_ino == made

    stub.unlink()  # half of it lost
    find_runtime(tmp_path)
    assert stub.exists()


def test_another_server_can_be_named(tmp_path: Path) -> None:
    other = tmp_path / "tritonserver"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    assert find_runtime(tmp_path, executable=str(other)) == Runtime(other, backends=None)
    with pytest.raises(BadInput, match="no such program"):
        find_runtime(tmp_path, executable=str(tmp_path / "none"))


def test_the_environment_is_added_to_and_not_replaced() -> None:
    runtime = Runtime(Path("/t"), None, (Path("/libs"),))
    made = runtime.environment({"PATH": "/bin", "LD_LIBRARY_PATH": "/mine", "HOME": "/h"})
    assert made["LD_LIBRARY_PATH"] == "/libs:/mine"
    assert made["PATH"].endswith(":/bin")
    assert made["HOME"] == "/h"
