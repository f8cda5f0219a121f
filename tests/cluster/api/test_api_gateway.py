"""The gateway's process on a real API server; V2 servers of a page stand for the replicas."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from atelier.contract.replica import HeldAdapter, Replica
from atelier.data.release import Pin, Release
from atelier.platform import listing, watching
from atelier.platform.api import INFERENCE_SERVICES
from services.gateway.keys import KeyStore
from services.triton.process import free_port, spawn, stop, tail
from tests.cluster.api.conftest import Namespace
from tests.cluster.apiserver import ApiServer, until
from tests.gateway import BASE, ONE, TWO, digests
from tests.integration.gateway.v2 import Call, V2Server

ROOT = Path(__file__).resolve().parents[3]
FIRST = Release(adapter="thor-cat", base=BASE, version=1, digest=ONE.digest)
SECOND = FIRST.with_version(Pin(version=2, digest=TWO.digest), "promoted")


class Pod:
    """One serving pod: a V2 server, and the report of its agent."""

    def __init__(self, namespace: Namespace, name: str, folder: Path, pool: str = "stable"):
        self.name = name
        self.v2 = V2Server(digests=digests([(1, ONE), (2, TWO)]))
        self._reports = watching(namespace.api("agent"), namespace.pod(name), folder / name)
        self._pool = pool
        self.versions = [1]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def close(self, *, withdraw: bool = False) -> None:
        self._ended.set()
        self._thread.join()
        self.v2.stop()
        if withdraw:
            self._reports.replicas.remove(self.name)

    def _renew(self) -> None:
        known = {1: ONE.digest, 2: TWO.digest}
        while not self._ended.wait(0.2):
            held = tuple(
                HeldAdapter(
                    name="thor-cat", version=one, digest=known[one], state="ready", default=True
                )
                for one in self.versions
            )
            self._reports.replicas.put(
                Replica(
                    replica=self.name,
                    base=BASE,
                    backend="painted",
                    engine_digest="e",
                    heartbeat=time.time(),
                    adapters=held,
                    grpc=f"127.0.0.1:{self.v2.port}",
                    pool=self._pool,
                )
            )


class Gateway:
    """`python -m services.gateway --kubernetes`."""

    def __init__(self, namespace: Namespace, folder: Path):
        self.namespace, self.folder = namespace, folder
        self.port = free_port()
        self.log = folder / "gateway.log"
        self.database = f"sqlite:///{folder / 'keys.db'}"
        self._process: subprocess.Popen[bytes] | None = None
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    def start(self) -> None:
        pod = self.namespace.pod("gateway-a")
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.namespace.server.kubeconfig("gateway")),
            "POD_NAME": pod.name,
            "POD_NAMESPACE": pod.namespace,
            "POD_UID": pod.uid,
            "POD_IP": "127.0.0.1",
            "ATELIER_HOME": str(self.folder / "home"),
            "ATELIER_DATABASE_URL": self.database,
        }
        command = [sys.executable, "-m", "services.gateway", "--kubernetes"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        self._process = spawn(command, env=environment, cwd=ROOT, log=self.log)
        until(lambda: self.get("/healthz") == 200, 120, lambda: tail(self.log, 30))

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            stop(process, grace=30)

    def get(self, path: str) -> int:
        try:
            return self.http.get(path).status_code
        except httpx.TransportError:
            return 0

    def key(self, name: str = "test") -> str:
        return KeyStore(self.database).create(name)[0]

    def make(self, key: str, **body: Any) -> httpx.Response:
        given = {"prompt": "a cat", "adapter": "thor-cat", **body}
        return self.http.post("/generate_image", json=given, headers={"X-API-Key": key})

    def version(self, key: str) -> int | None:
        answer = self.make(key)
        return answer.json()["adapters"][0]["version"] if answer.status_code == 200 else None


@pytest.fixture
def pods(namespace: Namespace, tmp_path: Path) -> Iterator[list[Pod]]:
    made = [Pod(namespace, f"pod-{name}", tmp_path) for name in "ab"]
    yield made
    for one in made:
        one.close()


@pytest.fixture
def gateway(namespace: Namespace, tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(namespace, tmp_path)
    yield made
    made.stop()
    made.http.close()


def shares(pods: list[Pod]) -> dict[str, int]:
    return {one.name: len(one.v2.calls) for one in pods}


def test_calls_are_balanced_and_move_when_all_hold_the_version(
    namespace: Namespace, pods: list[Pod], gateway: Gateway
) -> None:
    namespace.release(FIRST, ONE)
    gateway.start()
    assert until(lambda: gateway.get("/readyz") == 200, 30, lambda: tail(gateway.log, 30)) < 30
    key = gateway.key()
    until(lambda: gateway.version(key) == 1)
    found = gateway.http.get("/v1/models", headers={"X-API-Key": key}).json()["data"]
    assert [one["trigger"] for one in found if one["id"] == "thor-cat"] == ["sks cat"]
    for pod in pods:
        pod.v2.calls.clear()
        pod.v2.on_call = lambda call: time.sleep(0.05)
    with ThreadPoolExecutor(4) as threads:
        statuses = list(threads.map(lambda _: gateway.make(key).status_code, range(40)))
    assert set(statuses) == {200}
    assert min(shares(pods).values()) >= 10
    calls = [call for pod in pods for call in pod.v2.calls]
    assert {(one["name"], one["version"]) for c in calls for one in c.adapters} == {("thor-cat", 1)}
    assert {call.prompt for call in calls} == {"a sks cat"}  # by the manifest in the ConfigMap

    namespace.release(SECOND, ONE, TWO)
    pods[0].versions = [1, 2]
    time.sleep(1.5)
    assert gateway.version(key) == 1  # one of two holds it
    pods[1].versions = [1, 2]
    until(lambda: gateway.version(key) == 2, 20)
    hook = listing(namespace.api("hook"))
    until(hook.gateways.live)
    (told,) = hook.gateways.live()
    assert told.gateway == "gateway-a" and told.routes["thor-cat"].serving == TWO.digest
    namespace.release(FIRST, ONE)  # helm rollback
    assert until(lambda: gateway.version(key) == 1, 20) < 5
    gateway.stop()
    assert hook.gateways.live() == ()


def test_one_that_refuses_connections_costs_no_call_and_one_that_breaks_is_not_asked_twice(
    namespace: Namespace, pods: list[Pod], gateway: Gateway
) -> None:
    namespace.release(FIRST, ONE)
    gateway.start()
    key = gateway.key()
    until(lambda: gateway.version(key) == 1)
    for pod in pods:
        pod.v2.calls.clear()
        pod.v2.on_call = lambda call: call.fail(grpc.StatusCode.UNAVAILABLE, "Socket closed")
    assert gateway.make(key).status_code == 503
    assert sum(shares(pods).values()) == 1  # it may have been drawn
    for pod in pods:
        pod.v2.calls.clear()

        def busy(call: Call) -> None:
            call.fail(grpc.StatusCode.UNAVAILABLE, "the queue is full (retry after 1.0 s)")

        pod.v2.on_call = busy
    assert gateway.make(key).json()["type"].endswith("engine-busy")
    assert shares(pods) == {"pod-a": 1, "pod-b": 1}  # certainly not begun: the other was asked
    for pod in pods:
        pod.v2.on_call = lambda call: None
    pods[0].v2.stop()  # the pod is there, its engine is not
    assert [gateway.make(key).status_code for _ in range(12)] == [200] * 12


def test_the_api_server_away_and_a_gateway_that_restarts_meanwhile(
    namespace: Namespace, pods: list[Pod], gateway: Gateway
) -> None:
    namespace.release(FIRST, ONE)
    gateway.start()
    key = gateway.key()
    until(lambda: gateway.version(key) == 1)
    namespace.server.stop_server()
    try:
        began = time.monotonic()
        while time.monotonic() - began < 7:
            assert gateway.make(key).status_code == 200
            time.sleep(0.2)
        gateway.stop(signal.SIGKILL)
        gateway.start()
        until(lambda: gateway.get("/readyz") == 200, 30, lambda: tail(gateway.log, 30))
        assert [gateway.version(key) for _ in range(6)] == [1] * 6
    finally:
        namespace.server.start_server()
    for pod in pods:
        pod.versions = [1, 2]
    namespace.release(SECOND, ONE, TWO)
    until(lambda: gateway.version(key) == 2, 60, lambda: tail(gateway.log, 30))


def test_a_canary_takes_its_share_of_the_keys(
    namespace: Namespace, pods: list[Pod], gateway: Gateway, tmp_path: Path
) -> None:
    inference_services(namespace.server)
    canary = Pod(namespace, "pod-next", tmp_path, pool="next")
    try:
        namespace.release(FIRST, ONE)
        share(namespace, 20)
        gateway.start()
        keys = [gateway.key(f"key-{number}") for number in range(60)]
        until(lambda: gateway.version(keys[0]) == 1)
        counted: dict[int, float] = {}
        for percent in (20, 100, 0):
            share(namespace, percent)
            time.sleep(1.5)
            before = len(canary.v2.calls)
            first = [_asked(gateway, canary, key) for key in keys]
            counted[percent] = (len(canary.v2.calls) - before) / len(keys)
            assert [_asked(gateway, canary, key) for key in keys[:10]] == first[:10]  # it stays
        assert 0.05 <= counted[20] <= 0.40 and counted[100] == 1.0 and counted[0] == 0.0
        text = gateway.http.get("/metrics").text
        assert 'atelier_gateway_pool_calls_total{pool="next"}' in text
    finally:
        canary.close()


def _asked(gateway: Gateway, canary: Pod, key: str) -> bool:
    """Whether the key's call went to the canary."""
    before = len(canary.v2.calls)
    assert gateway.make(key).status_code == 200
    return len(canary.v2.calls) > before


def share(namespace: Namespace, percent: int) -> None:
    """Give the canary its share, as charts/atelier does."""
    canaries = [{"trafficPercent": percent, "predictor": {"name": "next"}}]
    body = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "atelier"},
        "spec": {"predictor": {}, "canary": canaries},
    }
    namespace.api("admin").apply(INFERENCE_SERVICES, body)


def inference_services(server: ApiServer) -> None:
    """Make KServe's kind known; nobody acts on it here."""
    group, plural = "serving.kserve.io", "inferenceservices"
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1beta1", "served": True, "storage": True}
    body = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": "InferenceService", "singular": "inferenceservice"},
            "versions": [{**version, "schema": {"openAPIV3Schema": anything}}],
        },
    }
    api = server.api("default")
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    api.apply(path, body)
    until(lambda: "True" in str(api.get(path, f"{plural}.{group}").get("status", {})))
    time.sleep(1.0)
