"""Folders by digest in real MLflow: a local database and a real server."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import requests
from typer.testing import CliRunner

from atelier.data.names import ArtifactRef
from atelier.errors import ArtifactError, Unavailable
from atelier.files import digest_folder
from atelier.home import Home
from atelier.stores.artifacts import Artifacts
from atelier.stores.base_files import base_digest, base_files
from commands.main import app
from tests.training import ROOT, Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("mlflow"))
    with running:
        yield running


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> str:
    return Home(tmp_path_factory.mktemp("home")).tracking_uri


@pytest.fixture(params=["local", "server"])
def artifacts(request: pytest.FixtureRequest) -> Artifacts:
    found = request.getfixturevalue(request.param)
    return Artifacts(found if isinstance(found, str) else found.url)


def folder(place: Path, text: str = "x") -> Path:
    """Some files, one of them deep and one of them empty."""
    for name in ("index.json", "unet/weights.bin", "unet/deep/ü (1).txt", "empty"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(f"{name} {text}" * 100 if name != "empty" else "")
    return place


def ref_of(place: Path) -> ArtifactRef:
    return ArtifactRef.of("datasets", digest_folder(place))


def test_what_was_put_is_fetched_by_digest(artifacts: Artifacts, tmp_path: Path) -> None:
    made = folder(tmp_path / "made")
    ref = ref_of(made)
    assert not artifacts.exists(ref)
    assert artifacts.put(ref, made, source="some/name")
    assert artifacts.exists(ref)
    assert not artifacts.put(ref, made)  # nothing is missing
    into = artifacts.get(ref, tmp_path / "fetched" / "here")
    assert digest_folder(into) == digest_folder(made)
    assert artifacts.named("datasets", "some/name") == ref
    assert artifacts.named("datasets", "another") is None


def test_the_newest_of_a_name_is_meant(artifacts: Artifacts, tmp_path: Path) -> None:
    first, second = folder(tmp_path / "1", "first"), folder(tmp_path / "2", "second")
    for one in (first, second):
        artifacts.put(ref_of(one), one, source="owner/moving")
        time.sleep(0.01)  # MLflow's times are milliseconds
    assert artifacts.named("datasets", "owner/moving") == ref_of(second)


def test_only_what_has_the_digest_is_taken(artifacts: Artifacts, tmp_path: Path) -> None:
    made = folder(tmp_path / "made", "other")
    ref = ref_of(made)
    (made / "empty").write_text("no longer")
    with pytest.raises(ArtifactError, match="the files have digest sha256:"):
        artifacts.put(ref, made)
    with pytest.raises(ArtifactError, match=r"is not in MLflow at .*; submit the recipe again"):
        artifacts.get(ref, tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_an_interrupted_upload_is_gone_on_with(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = folder(tmp_path / "made", "interrupted")
    ref, stored, store = ref_of(made), list[str](), artifacts.log_file
    limit = [2]

    def counting(run: str, path: Path, place: str | None = None) -> None:
        if len(stored) == limit[0]:
            raise Unavailable("the network is gone")
        stored.append(path.name)
        store(run, path, place)

    monkeypatch.setattr(artifacts, "log_file", counting)
    with pytest.raises(Unavailable):
        artifacts.put(ref, made)
    assert not artifacts.exists(ref)
    limit[0] = 1000
    assert artifacts.put(ref, made)
    assert len(stored) == 4 + 1  # each file once, and the index
    assert digest_folder(artifacts.get(ref, tmp_path / "into")) == digest_folder(made)


def test_a_damaged_artifact_never_appears(local: str, tmp_path: Path) -> None:
    artifacts, made = Artifacts(local), folder(tmp_path / "made", "damaged")
    artifacts.put(ref_of(made), made)
    into = artifacts.get(ref_of(made), tmp_path / "a" / "into")
    (into / "unet/weights.bin").write_text("damaged here")
    (into / "extra").write_text("not in it")
    assert digest_folder(artifacts.get(ref_of(made), into)) == digest_folder(made)  # repaired

    root = Path(local.removeprefix("sqlite:///")).parent / "mlartifacts"
    (stored,) = [
        file
        for file in root.rglob("weights.bin")
        if file.read_bytes() == (made / "unet/weights.bin").read_bytes()
    ]
    data = bytearray(stored.read_bytes())
    data[-1] ^= 1
    stored.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"unet/weights\.bin in MLflow does not match its"):
        artifacts.get(ref_of(made), tmp_path / "b" / "into")
    assert [one.name for one in (tmp_path / "b").iterdir()] == [".lock"]

    index = stored.parents[2] / "index.json"
    about = json.loads(index.read_text())
    del about["files"]["empty"]
    index.write_text(json.dumps(about))
    with pytest.raises(ArtifactError, match="contains another artifact"):
        artifacts.get(ref_of(made), tmp_path / "b" / "into")


SLOW = 4


class SlowArtifacts(ThreadingHTTPServer):
    """A proxy in front of MLflow that answers for a file only after `SLOW` seconds."""

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Slow)
        self.behind = behind
        self.timeouts: set[str | None] = set()  # that the environment gave while it answered
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> "SlowArtifacts":
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Slow(BaseHTTPRequestHandler):
    server: SlowArtifacts

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "/mlflow-artifacts/artifacts/" in self.path and self.path.endswith("/weights"):
            time.sleep(SLOW)
            self.server.timeouts.add(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT"))
        headers = {"Content-Type": self.headers.get("Content-Type") or "application/octet-stream"}
        answer = requests.request(
            self.command, self.server.behind + self.path, data=body, headers=headers, timeout=60
        )
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content)

    do_GET = do_HEAD = do_PATCH = do_POST = do_PUT = _pass_on  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


def test_a_slow_transfer_outlasts_the_timeout_of_a_call_and_changes_no_setting(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads at once: a setting changed for one would end up in the other."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(SLOW - 1))
    made = [tmp_path / name for name in ("slow", "slower")]
    for one in made:
        one.mkdir()
        (one / "weights").write_text(one.name)
    with SlowArtifacts(server.url) as slow, ThreadPoolExecutor(2) as threads:
        artifacts = Artifacts(slow.url)
        put = threads.map(lambda one: artifacts.put(ref_of(one), one), made)
        assert list(put) == [True, True]
        into = threads.map(lambda one: artifacts.get(ref_of(one), tmp_path / ref_of(one).key), made)
        assert [digest_folder(one) for one in into] == [digest_folder(one) for one in made]
        assert slow.timeouts == {str(SLOW - 1)}
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == str(SLOW - 1)


def storage(uri: str, target: Path, registry: str, *more: str) -> subprocess.CompletedProcess[str]:
    """KServe's storage container, as it is called."""
    command = [sys.executable, "-m", "services.storage", uri, str(target), *more]
    env = {**os.environ, "MLFLOW_TRACKING_URI": registry}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_a_base_reaches_a_pods_volume(
    server: Server, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imported by the command, fetched by the storage container into a mount point."""
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    (base / "README.md").write_text("no part of the model")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    answered = CliRunner().invoke(app, ["base", "import", str(base), "--json"])
    assert answered.exit_code == 0, answered.stderr
    said = json.loads(answered.stdout)
    assert said["uri"] == str(ArtifactRef.of("bases", base_digest(base)))
    assert said["uploaded"]
    again = CliRunner().invoke(app, ["base", "import", str(base)])
    assert again.stdout.split() == [said["uri"], said["digest"]]
    assert said["digest"] == base_digest(base)  # as values of charts spell it

    target = tmp_path / "mnt"
    target.mkdir()
    first = storage(said["uri"], target, server.url)
    assert first.returncode == 0, first.stderr
    assert base_digest(target) == base_digest(base)
    there = sorted(file.relative_to(target) for file in target.rglob("*") if file.is_file())
    assert there == sorted(file.relative_to(base) for file in base_files(base))

    (target / "unet/config.json").write_text("damaged")
    (target / "vae/config.json").unlink()
    written = (target / "unet/diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    second = storage(said["uri"], target, server.url)
    assert second.returncode == 0, second.stderr
    assert base_digest(target) == base_digest(base)
    assert (target / "unet/diffusion_pytorch_model.safetensors").stat().st_mtime_ns == written


def test_storage_says_what_cannot_be_brought(server: Server, tmp_path: Path) -> None:
    absent = str(ArtifactRef("bases", "0" * 64))
    for uri, said in ((absent, "atelier base import MODEL"), ("s3://bucket/model", "the form is")):
        ended = storage(uri, tmp_path / "mnt", server.url)
        assert ended.returncode == 2, ended.stderr
        assert said in ended.stderr
    ended = storage(absent, tmp_path / "mnt", "http://127.0.0.1:9", "--patience", "1")
    assert ended.returncode == 3, ended.stderr
    assert "does not answer" in ended.stderr


def test_storage_waits_for_mlflow(tmp_path: Path) -> None:
    """The server is away when the pod starts, and comes back."""
    made = folder(tmp_path / "made", "waiting")
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    with server:
        Artifacts(server.url).put(ref_of(made), made)
    command = [sys.executable, "-m", "services.storage", str(ref_of(made)), str(tmp_path / "mnt")]
    env = {**os.environ, "MLFLOW_TRACKING_URI": server.url}
    waiting = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    try:
        assert waiting.stderr is not None
        assert "does not answer" in next(line for line in waiting.stderr if "again in" in line)
        with server:
            _, rest = waiting.communicate(timeout=120)
    finally:
        waiting.send_signal(signal.SIGKILL)
    assert waiting.returncode == 0, rest
    assert digest_folder(tmp_path / "mnt") == digest_folder(made)
