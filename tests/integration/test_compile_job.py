"""A compile Job's container: from a base in MLflow to an engine there, however often it runs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from atelier.data.names import ArtifactRef, hex_of
from atelier.platform.jobs import CompilationSpec
from atelier.stores.artifacts import Artifacts
from atelier.stores.base_files import base_digest
from commands.main import app
from pipelines.job_inputs import find_base, put
from services.engine.backends.compiled import Compiled
from tests.training import Server


@pytest.fixture(scope="module")
def registry(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server with the base, as `atelier compile --submit` leaves it."""
    with Server(tmp_path_factory.mktemp("mlflow")) as server:
        digest, contents = find_base(str(tiny_model), None, lambda: Artifacts(server.uri))
        assert put(contents, Artifacts(server.uri)) == [str(ArtifactRef.of("bases", digest))]
        assert put(contents, Artifacts(server.uri)) == []
        yield server.uri


@pytest.fixture
def spec(tiny_model: Path) -> CompilationSpec:
    base = base_digest(tiny_model)
    return CompilationSpec(base=base, backend="onnx", precision="fp32", image="sha256:1")


def start(spec: CompilationSpec, volume: Path, registry: str) -> subprocess.Popen[str]:
    """One pod: nothing but the volume that outlives it."""
    volume.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pipelines.compile.compile_job", "--patience", "1"]
    command += ["--spec", spec.model_dump_json()]
    env = {**os.environ, "ATELIER_HOME": str(volume), "OMP_NUM_THREADS": "1"}
    env["MLFLOW_TRACKING_URI"] = registry
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=volume, env=env, stdout=pipe, stderr=pipe, text=True)


def ended(pod: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, said = pod.communicate(timeout=300)
    finally:
        pod.kill()
    return pod.returncode, out, said


def test_a_stopped_pod_leaves_a_base_and_the_next_one_makes_the_engine(
    spec: CompilationSpec, tiny_model: Path, registry: str, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    first = start(spec, volume, registry)
    assert first.stderr is not None
    said = []
    while not any(line.startswith("exporting the UNet: 0/1") for line in said):
        said.append(first.stderr.readline())
        assert said[-1], said
    assert any("fetching bases" in line for line in said)
    asked = time.monotonic()
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 143
    assert time.monotonic() - asked < 30  # at once; Kubernetes would wait for two minutes
    first.communicate()
    artifacts = Artifacts(registry)
    assert artifacts.made_from("engines", spec.digest) is None
    assert left_behind(volume)

    code, out, said_next = ended(start(spec, volume, registry))
    assert code == 0, said_next
    assert "fetching bases" not in said_next  # it lay on the volume
    assert not left_behind(volume) and not list((volume / "compiled").iterdir())
    ref = artifacts.made_from("engines", spec.digest)
    assert out.splitlines()[-1] == str(ref)
    assert ref is not None
    made = Compiled.open(artifacts.get(ref, tmp_path / "engine"))
    assert (made.spec.key, made.spec.base) == (ref.key, spec.base)
    assert made.manifest.error < 1e-4

    # Of the same spec nothing is done; of another image with the same versions, nothing is made.
    code, out, said_next = ended(start(spec, tmp_path / "empty", registry))
    assert (code, out.strip()) == (0, str(ref)), said_next
    assert "exists already; it was made from the same inputs" in said_next
    assert not (tmp_path / "empty/artifacts").exists()
    renewed = spec.model_copy(update={"image": "sha256:2"})
    code, out, said_next = ended(start(renewed, volume, registry))
    assert (code, out.strip()) == (0, str(ref)), said_next
    assert "exporting" not in said_next
    assert artifacts.made_from("engines", renewed.digest) == ref
    assert artifacts.made_from("engines", spec.digest) == ref

    with pytest.MonkeyPatch.context() as patch:  # `--submit` makes no Job, and asks no cluster
        patch.setenv("MLFLOW_TRACKING_URI", registry)
        patch.delenv("KUBECONFIG", raising=False)
        words = ["compile", str(tiny_model), "--submit", "--image", "anywhere/i@sha256:1"]
        told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.stderr
    assert told.stdout == f"{ref} exists already; it was made from the same inputs\n"


def left_behind(volume: Path) -> Sequence[Path]:
    return list((volume / "compiled").glob(".*"))


def test_an_engine_that_could_not_be_kept_is_not_made_again(
    spec: CompilationSpec, registry: str, tmp_path: Path
) -> None:
    """MLflow went away while it was made: the next pod finds it on the volume."""
    other = spec.model_copy(update={"image": "sha256:3"})
    volume, artifacts = tmp_path / "volume", Artifacts(registry)
    code, out, said = ended(start(other, volume, registry))
    assert code == 0, said
    ref = ArtifactRef.parse(out.split()[-1])
    output = volume / "compiled" / hex_of(other.digest)[:12]
    artifacts.get(ref, output)
    artifacts._client.delete_run(artifacts._finished(ref))
    assert not artifacts.exists(ref) and artifacts.made_from("engines", other.digest) is None
    code, out, said = ended(start(other, volume, registry))
    assert (code, out.split()[-1]) == (0, str(ref)), said
    assert "exporting" not in said
    assert artifacts.made_from("engines", other.digest) == ref


def test_bad_input_and_a_registry_that_is_away_are_told_apart(
    spec: CompilationSpec, registry: str, tmp_path: Path
) -> None:
    nothing = spec.model_copy(update={"base": "sha256:" + "0" * 64})
    code, _, said = ended(start(nothing, tmp_path / "a", registry))
    assert code == 2, said
    assert f"mlflow://bases/{'0' * 64}: is not in MLflow" in said
    assert "atelier base import" in said
    code, _, said = ended(start(spec.model_copy(update={"rank": 4}), tmp_path / "b", registry))
    assert code == 2, said
    assert "an ONNX graph takes any" in said
    unmet = spec.model_copy(update={"backend": "tensorrt"})
    code, _, said = ended(start(unmet, tmp_path / "c", registry))
    assert code == 2, said
    assert "needs the NVIDIA GPU" in said
    code, _, said = ended(start(spec, tmp_path / "d", "http://127.0.0.1:9"))
    assert code == 3, said
