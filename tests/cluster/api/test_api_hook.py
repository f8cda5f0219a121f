"""The hook against a real API server and a real registry; replicas and gateways are played."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from atelier.contract.gateway import Gateway, Routed
from atelier.contract.replica import HeldAdapter, Replica
from atelier.data.release import Pin, Release
from atelier.errors import BadInput, Refused, Unavailable
from atelier.platform import LeaseLock, listing, watching
from atelier.platform.api import CONFIG_MAPS
from atelier.stores.registry import Registry
from pipelines.delivery.cluster.follow import AliasFollower
from pipelines.delivery.smoke import Smoke
from pipelines.evaluate.attestations import JudgedImage
from tests.cluster.api.conftest import Namespace
from tests.judged import DIGEST as BASE

ROOT = Path(__file__).resolve().parents[3]
NAME, ALIAS = "thor-cat", "production"


class Scene:
    """One adapter with two versions, a replica and a gateway that say what they are told to."""

    def __init__(self, namespace: Namespace, uri: str, digests: Mapping[int, str], folder: Path):
        self.namespace, self.uri, self.digests = namespace, uri, dict(digests)
        self.registry = Registry(uri)
        self._agent = watching(namespace.api("agent"), namespace.pod("pod-a"), folder / "a")
        self._gateway = watching(namespace.api("gateway"), namespace.pod("gate-a"), folder / "g")
        self._says: tuple[Replica, Gateway] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()
        self.drawn: list[tuple[str, int]] = []
        self.smoke: Smoke = self._draw
        self.mlflow_away = False

    def _draw(self, release: Release, pin: Pin, judged: Sequence[JudgedImage]) -> str:
        self.drawn.append((release.adapter, pin.version))
        return "drawn"

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def release(self, version: int) -> None:
        """What `helm upgrade` writes."""
        digest = self.digests[version]
        now = Release(adapter=NAME, base=BASE, version=version, digest=digest)
        if version == 2:
            first = Release(adapter=NAME, base=BASE, version=1, digest=self.digests[1])
            now = first.with_version(Pin(version=2, digest=digest), "promoted")
        self.namespace.release(now)

    def serve(self, version: int, state: str = "ready", *, routed: bool = True) -> None:
        """The replica holds it, and the gateway sends calls there."""
        digest = self.digests[version]
        error = "the package is damaged" if state == "failed" else None
        fields = {"name": NAME, "version": version, "digest": digest, "state": state}
        held = HeldAdapter.model_validate({**fields, "default": state == "ready", "error": error})
        replica = Replica(
            replica="pod-a",
            base=BASE,
            backend="torch",
            engine_digest="e",
            heartbeat=0.0,
            adapters=(held,),
        )
        routes = {NAME: Routed(serving=digest)} if routed else {}
        self._says = replica, Gateway(gateway="gate-a", heartbeat=0.0, routes=routes)

    def serve_nothing(self) -> None:
        assert self._says is not None
        replica, gateway = self._says
        self._says = (
            replica.model_copy(update={"adapters": ()}),
            gateway.model_copy(update={"routes": {}}),
        )

    def hook(self) -> AliasFollower:
        api = self.namespace.api("hook")
        return AliasFollower(
            listing(api),
            self._open,
            lambda name: LeaseLock(api, f"atelier-alias-{name}", "test"),
            alias=ALIAS,
            smoke=self.smoke,
        )

    @property
    def alias(self) -> int | None:
        found = self.registry.aliased(NAME, ALIAS)
        return found.version if found else None

    def _open(self) -> Registry:
        if self.mlflow_away:
            raise Unavailable("MLflow at http://mlflow:5000 does not answer")
        return self.registry

    def _renew(self) -> None:
        while not self._ended.wait(0.2):
            if self._says is not None:
                self._agent.replicas.put(self._says[0])
                self._gateway.gateways.put(self._says[1])


@pytest.fixture
def scene(
    namespace: Namespace, registered: tuple[Path, dict[int, str]], tmp_path: Path
) -> Iterator[Scene]:
    database, digests = registered
    shutil.copy(database, tmp_path / "mlflow.db")
    made = Scene(namespace, f"sqlite:///{tmp_path / 'mlflow.db'}", digests, tmp_path)
    yield made
    made.close()


def test_the_alias_follows_what_serves_there_and_back(scene: Scene) -> None:
    scene.release(1)
    scene.serve(1)
    assert "alias production names it" in scene.hook().follow(NAME, wait=30).text
    assert scene.alias == 1
    scene.release(2)
    later = threading.Timer(1.0, scene.serve, [2])
    later.start()
    began = time.monotonic()
    assert not scene.hook().follow(NAME, wait=30).failed
    assert time.monotonic() - began > 1.0 and scene.alias == 2  # it waited for the replica
    scene.release(1)  # helm rollback writes the old object again
    scene.serve(1)
    assert not scene.hook().follow(NAME, wait=30).failed
    assert scene.alias == 1
    assert scene.drawn == [(NAME, 1), (NAME, 2), (NAME, 1)]


def test_what_never_serves_leaves_the_alias_and_says_why(scene: Scene) -> None:
    scene.release(1)
    scene.serve(1, routed=False)
    ended = scene.hook().follow(NAME, wait=2)
    assert ended.failed and "not yet routed by gateway gate-a" in ended.text
    scene.serve(1, "failed")
    ended = scene.hook().follow(NAME, wait=4)
    assert ended.failed and "the package is damaged" in ended.text
    assert scene.alias is None and scene.drawn == []
    with pytest.raises(BadInput, match="there is no ConfigMap release-nobody"):
        scene.hook().follow("nobody", wait=1)


def test_a_picture_that_cannot_be_made_leaves_the_alias(scene: Scene) -> None:
    def refuse(_: Release, pin: Pin, judged: Sequence[JudgedImage]) -> str:
        raise Refused("the gateway returned 422")

    scene.smoke = refuse
    scene.release(1)
    scene.serve(1)
    with pytest.raises(Refused, match="422"):
        scene.hook().follow(NAME, wait=10)
    assert scene.alias is None


def test_with_mlflow_away_it_says_so_and_a_later_round_finishes(scene: Scene) -> None:
    scene.release(1)
    scene.serve(1)
    scene.mlflow_away = True
    ended = scene.hook().follow(NAME, wait=10)
    assert (
        not ended.failed and "MLflow is unavailable, so alias production moves later" in ended.text
    )
    assert scene.drawn == [(NAME, 1)]
    assert not any(one.failed for one in scene.hook().follow_all())
    scene.mlflow_away = False
    assert scene.alias is None
    (ended,) = scene.hook().follow_all()
    assert not ended.failed and scene.alias == 1


def test_a_release_that_the_registry_does_not_know_is_a_disagreement(scene: Scene) -> None:
    digests, scene.digests = scene.digests, {1: scene.digests[2]}
    scene.release(1)
    scene.serve(1)
    ended = scene.hook().follow(NAME, wait=10)
    assert ended.failed and "but the registry has" in ended.text and digests[1] in ended.text
    assert scene.alias is None


def test_a_retired_adapter_loses_its_alias_once_nobody_answers_by_it(scene: Scene) -> None:
    scene.release(1)
    scene.serve(1)
    scene.hook().follow(NAME, wait=10)
    scene.namespace.put("broken", {"release.json": "{"})
    scene.namespace.retire(NAME)
    texts = [one.text for one in scene.hook().follow_all()]
    assert any("still served by gate-a, pod-a" in text for text in texts)
    assert scene.alias == 1
    scene.serve_nothing()
    deadline = time.monotonic() + 20
    while scene.alias is not None:
        outcomes = scene.hook().follow_all()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert [one.failed for one in outcomes] == [True, False]  # the broken one is told, no more


def test_a_release_that_cannot_be_read_loses_nothing(scene: Scene) -> None:
    scene.release(1)
    scene.serve(1)
    scene.hook().follow(NAME, wait=10)
    scene.namespace.put(NAME, {"release.json": "{"})
    with pytest.raises(Refused, match="not a release"):
        scene.hook().follow(NAME, wait=1)
    assert [one.failed for one in scene.hook().follow_all()] == [True]
    assert scene.alias == 1


def test_the_process_asks_the_gateway_with_its_key(scene: Scene, tmp_path: Path) -> None:
    asked: list[tuple[str | None, dict[str, Any]]] = []
    digest = scene.digests[1]

    class Front(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.headers["X-API-Key"], body))
            made = {"adapters": [{"digest": digest}], "images": [{"png": "", "seed": 0}]}
            answer = json.dumps(made).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

    server = HTTPServer(("127.0.0.1", 0), Front)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    scene.release(1)
    scene.serve(1)
    environment = {
        **os.environ,
        "KUBECONFIG": str(scene.namespace.server.kubeconfig("hook")),
        "POD_NAMESPACE": scene.namespace.name,
        "MLFLOW_TRACKING_URI": scene.uri,
        "ATELIER_KEY": "the-key",
    }
    command = [
        sys.executable,
        "-m",
        "pipelines.delivery.cluster.hook",
        NAME,
        "--environment",
        ALIAS,
    ]
    command += ["--gateway", f"http://127.0.0.1:{server.server_port}", "--wait", "60"]
    ended = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    server.shutdown()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    ((key, body),) = asked
    assert key == "the-key" and body["adapter"] == NAME
    assert scene.alias == 1
    assert scene.namespace.api("admin").list(CONFIG_MAPS)[0]
