"""The registry against real MLflow: a local database, a real server, and one that is away."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from atelier.adapter.package import ADAPTER, MANIFEST, Package, write_package
from atelier.adapter.safetensors_file import TensorFile
from atelier.adapter.signature_policy import SignaturePolicy
from atelier.data.manifest import BaseRef
from atelier.errors import AdapterRejected, BadInput, Unavailable
from atelier.home import Home
from atelier.stores.registry import Registry
from atelier.stores.tracking import Point
from services.agent.packages import PackageShelf, PackageSource
from services.agent.plan import Named

BASE = BaseRef(id="models/miniature", digest="sha256:" + "0" * 64)
MODULE = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


def tensors(seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        f"{MODULE}.lora_A.weight": draw.normal(size=(4, 8)).astype(np.float32),
        f"{MODULE}.lora_B.weight": draw.normal(size=(8, 4)).astype(np.float32),
    }


def package(folder: Path, name: str, seed: int) -> Package:
    dataset = "sha256:" + "d" * 64
    return write_package(folder, tensors(seed), name=name, base=BASE, alpha=4, dataset=dataset)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real `mlflow server` that keeps the artifacts itself."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    log = (folder / "server.log").open("w")
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(
        command, stdout=log, stderr=log, start_new_session=True, env=environment
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 420  # a quarter of a minute where nothing else runs
        while True:
            try:
                Registry(url)
                break
            except Unavailable:
                assert process.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() < deadline, (folder / "server.log").read_text()
                time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        log.close()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> str:
    return Home(tmp_path_factory.mktemp("home")).tracking_uri


@pytest.fixture(params=["local", "server"])
def registry(request: pytest.FixtureRequest) -> Registry:
    return Registry(request.getfixturevalue(request.param))


def test_a_version_keeps_its_lineage_and_its_package(registry: Registry, tmp_path: Path) -> None:
    made = package(tmp_path / "made", "thor-cat", 1)
    run_id = registry.start_run("atelier/thor-cat", "first", {"who": "test"})

    version = registry.register(made, run_id=run_id, tags={"wandb": "offline"})

    info = registry.version("thor-cat", "candidate")
    assert (info.name, info.version, info.digest) == ("thor-cat", version, made.digest)
    assert info.run_id == run_id
    assert info.aliases == ("candidate",)
    assert info.tags["atelier.base"] == BASE.digest
    assert info.tags["atelier.dataset"] == made.manifest.dataset
    assert info.tags["wandb"] == "offline"
    written = {key for key in info.tags if key.startswith("atelier")}
    assert all(key.count(".") == 1 for key in written)  # a stored name is not a module's name
    fetched = registry.fetch(registry.version("thor-cat", version), tmp_path / "into" / "package")
    assert fetched.digest == made.digest
    assert fetched.path == tmp_path / "into" / "package"
    assert [one.name for one in (tmp_path / "into").iterdir()] == ["package"]
    assert "thor-cat" in registry.adapters()


def test_a_fetched_package_is_read_once(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = registry.register(package(tmp_path / "made", "read-once", 1), run_id=None)
    read: list[Path] = []
    verify = TensorFile.verify

    def counting(self: TensorFile, digest: str | None = None) -> None:
        read.append(self.path)
        verify(self, digest)

    monkeypatch.setattr(TensorFile, "verify", counting)
    fetched = registry.fetch(registry.version("read-once", version), tmp_path / "into")
    assert len(fetched.lora()) == 1
    assert len(read) == 1
    # an agent's shelf brings it as well, and verifies it itself
    shelf = PackageShelf(tmp_path / "packages", SignaturePolicy())
    named = Named("read-once", version, fetched.digest)
    PackageSource(shelf, SignaturePolicy(), lambda: Registry(registry.uri)).fetch(named)
    on_volume, bad = shelf.scan()
    assert (set(on_volume), bad) == ({fetched.digest}, {})
    assert len(read) == 2


def test_the_same_digest_is_one_version(registry: Registry, tmp_path: Path) -> None:
    first = registry.register(package(tmp_path / "a", "twice", 1), run_id=None)
    second = registry.register(package(tmp_path / "b", "twice", 2), run_id=None)
    again = registry.register(package(tmp_path / "c", "twice", 1), run_id=None)
    assert (first, second, again) == (1, 2, 1)
    assert [info.version for info in registry.versions("twice")] == [1, 2]


def test_two_packages_of_one_run_stay_apart(registry: Registry, tmp_path: Path) -> None:
    run_id = registry.start_run("atelier/stages", "two stages")
    packages = [package(tmp_path / str(seed), "stages", seed) for seed in (1, 2)]
    versions = [registry.register(one, run_id=run_id) for one in packages]
    for one, version in zip(packages, versions, strict=True):
        assert (
            registry.fetch(registry.version("stages", version), tmp_path / f"v{version}").digest
            == one.digest
        )


def test_what_training_stored_is_not_stored_again(registry: Registry, tmp_path: Path) -> None:
    run_id = registry.start_run("atelier/stored", "trained")
    made = package(tmp_path / "made", "stored", 1)
    registry.log_folder(run_id, made.path, "package")
    version = registry.register(made, run_id=run_id)
    assert registry.files(run_id) == ("package",)
    assert (
        registry.fetch(registry.version("stored", version), tmp_path / "into").digest == made.digest
    )


def test_half_of_an_upload_is_completed(registry: Registry, tmp_path: Path) -> None:
    run_id = registry.start_run("atelier/half", "killed while it stored")
    made = package(tmp_path / "made", "half", 1)
    registry.log_file(run_id, made.path / MANIFEST, "package")
    version = registry.register(made, run_id=run_id)
    assert registry.files(run_id) == ("package",)
    assert (
        registry.fetch(registry.version("half", version), tmp_path / "into").digest == made.digest
    )


def test_aliases_move_and_go(registry: Registry, tmp_path: Path) -> None:
    for seed in (1, 2):
        registry.register(package(tmp_path / str(seed), "moving", seed), run_id=None)
    registry.set_alias("moving", "production", 1)
    assert registry.version("moving", "production").version == 1
    registry.set_alias("moving", "production", 2)
    assert registry.version("moving", "production").aliases == ("candidate", "production")
    assert registry.version("moving", 1).aliases == ()
    registry.remove_alias("moving", "production")
    with pytest.raises(BadInput, match="no version production; known are 1, 2 and the aliases c"):
        registry.version("moving", "production")


def test_attestations_lie_beside_a_version(registry: Registry, tmp_path: Path) -> None:
    version = registry.register(package(tmp_path / "a", "attested", 1), run_id=None)
    assert registry.attestation(registry.version("attested", version), "evaluation.json") is None
    registry.attest(registry.version("attested", version), "evaluation.json", b'{"accepted": true}')
    assert (
        registry.attestation(registry.version("attested", version), "evaluation.json")
        == b'{"accepted": true}'
    )
    assert registry.attestation(registry.version("attested", version), "signature") is None
    registry.attest(registry.version("attested", version), "verdict-pictures/1.png", b"PNG")
    assert (
        registry.attestation(registry.version("attested", version), "verdict-pictures/1.png")
        == b"PNG"
    )
    assert (
        registry.attestation(registry.version("attested", version), "verdict-pictures/2.png")
        is None
    )
    assert (
        registry.fetch(registry.version("attested", version), tmp_path / "into").manifest.name
        == "attested"
    )


def test_an_unknown_adapter_is_told_with_the_known_ones(registry: Registry, tmp_path: Path) -> None:
    registry.register(package(tmp_path / "a", "known", 1), run_id=None)
    with pytest.raises(BadInput, match=r"no adapter unknown; known are .*known"):
        registry.versions("unknown")


def test_a_damaged_package_never_appears(local: str, tmp_path: Path) -> None:
    registry = Registry(local)
    made = package(tmp_path / "made", "damaged", 1)
    version = registry.register(made, run_id=None)
    into = tmp_path / "into"
    registry.fetch(registry.version("damaged", version), into)
    _flip_last_byte(into / ADAPTER)
    assert (
        registry.fetch(registry.version("damaged", version), into).digest == made.digest
    )  # fetched again

    (stored,) = Path(local.removeprefix("sqlite:///")).parent.glob(
        f"mlartifacts/{registry.version('damaged', version).run_id}/artifacts/package"
    )
    _flip_last_byte(stored / ADAPTER)
    with pytest.raises(AdapterRejected, match="changed or damaged"):
        registry.fetch(registry.version("damaged", version), tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []


def test_a_run_keeps_parameters_curves_and_files(registry: Registry, tmp_path: Path) -> None:
    run_id = registry.start_run("atelier/curves", "run")
    registry.log_params(run_id, {f"param{i}": i for i in range(130)})
    points = [Point("loss", 1 / (step + 1), step, 1e9 + step) for step in range(250)]
    registry.log_metrics(run_id, points[100:])
    registry.log_metrics(run_id, points[:200])  # late, and partly sent before
    (tmp_path / "sample.txt").write_text("a picture")
    registry.log_file(run_id, tmp_path / "sample.txt", "samples")
    registry.set_tags(run_id, {"state": "done"})
    registry.end_run(run_id)
    registry.resume_run(run_id)
    registry.end_run(run_id, "KILLED")

    run = registry._client.get_run(run_id)
    history = registry._client.get_metric_history(run_id, "loss")
    assert sorted(point.step for point in history) == list(range(250))
    assert run.data.params["param129"] == "129"
    assert (run.data.tags["state"], run.info.status) == ("done", "KILLED")
    assert registry.files(run_id, "samples") == ("samples/sample.txt",)
    assert registry.read(run_id, "samples/sample.txt") == b"a picture"
    assert registry.read(run_id, "samples/none.txt") is None
    with pytest.raises(BadInput, match="param0"):
        registry.log_params(run_id, {"param0": "changed"})


def test_a_run_has_an_address_where_a_server_is(server: str, local: str) -> None:
    for uri, prefix in ((server, f"{server}/#/experiments/"), (local, None)):
        registry = Registry(uri)
        url = registry.run_url(registry.start_run("atelier/address", "run"))
        assert url is None if prefix is None else str(url).startswith(prefix)


def test_an_address_to_look_at_has_no_password(server: str) -> None:
    registry = Registry(server.replace("://", "://anna:s3cret@"))
    url = registry.run_url(registry.start_run("atelier/address", "run"))
    assert str(url).startswith(f"{server}/#/experiments/")
    with pytest.raises(BadInput, match=r"http://\*\*\*@127") as caught:
        registry.end_run("no-such-run")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_nobody_there_is_noticed_quickly(scheme: str) -> None:
    started = time.monotonic()
    with pytest.raises(Unavailable, match="does not answer") as caught:
        Registry(f"{scheme}://127.0.0.1:{free_port()}")
    assert time.monotonic() - started < 5
    assert caught.value.retry_after


def test_a_server_that_never_answers_is_noticed_quickly() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(Unavailable):
            Registry(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - started < 10


def test_a_server_that_goes_away_is_unavailable(tmp_path: Path) -> None:
    """The session stands, then the server ends: calls fail in seconds, with the way out."""
    port = free_port()
    stub = subprocess.Popen(
        [sys.executable, "-c", _ONE_EMPTY_ANSWER, str(port)], stdout=subprocess.PIPE, text=True
    )
    assert stub.stdout is not None
    stub.stdout.readline()
    registry = Registry(f"http://127.0.0.1:{port}")
    stub.terminate()
    stub.wait(10)
    started = time.monotonic()
    with pytest.raises(Unavailable, match="start a run"):
        registry.start_run("any", "run")
    assert time.monotonic() - started < 15


def test_a_home_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(Unavailable, match=r"File exists|Not a directory"):
        Registry(f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}")


def test_a_database_that_is_none_is_noticed_quickly(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database at all")
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(BadInput, match="is not an SQLite database; move the file"):
        Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(Unavailable, match="Is a directory"):
        Registry(f"sqlite:///{tmp_path / 'folder.db'}")


def test_a_database_that_breaks_later_is_unavailable(local: str, tmp_path: Path) -> None:
    """The tables go while a session stands: an error of the database toolkit itself."""
    Registry(local)  # makes its tables, where no other test has
    database = Path(shutil.copy(local.removeprefix("sqlite:///"), tmp_path / "mlflow.db"))
    registry = Registry(f"sqlite:///{database}")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("DROP TABLE experiments")
    with pytest.raises(Unavailable, match="start a run"):
        registry.start_run("any", "run")


# Just enough of a server to let a client begin: no experiments.
_ONE_EMPTY_ANSWER = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"{}")
    do_GET = do_HEAD = lambda self: (self.send_response(200), self.end_headers())
    log_message = lambda self, *_: None
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer)
print("ready", flush=True)
server.serve_forever()
"""


def _flip_last_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
