"""The agent's process on a real API server and a real registry; the engine is played."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from atelier.contract.replica import HeldAdapter, Replica
from atelier.data.names import hex_of
from atelier.data.release import Pin, Release
from atelier.files import write_atomic
from atelier.platform.api import LEASES, NotFound
from services.triton.process import free_port, spawn, stop, tail
from tests.cluster.api.conftest import Namespace
from tests.cluster.apiserver import until
from tests.judged import DIGEST as BASE

ROOT = Path(__file__).resolve().parents[3]
POD = "pod-a"


class Engine:
    """Holds whatever wanted.json names at once, and says so."""

    def __init__(self, volume: Path):
        self._volume = volume
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.1):
            try:
                wanted = json.loads((self._volume / "wanted.json").read_bytes())["adapters"]
            except FileNotFoundError:
                wanted = []
            keys = ("name", "version", "digest", "default")
            held = [{**{key: one[key] for key in keys}, "state": "ready"} for one in wanted]
            said = Replica(
                replica="engine",
                base=BASE,
                backend="torch",
                engine_digest="e",
                heartbeat=time.time(),
                adapters=tuple(HeldAdapter.model_validate(one) for one in held),
            )
            write_atomic(self._volume / "loaded.json", said.model_dump_json())


class Pod:
    """A serving pod's agent, its volume and its engine."""

    def __init__(self, namespace: Namespace, database: Path, folder: Path):
        self.namespace, self.folder = namespace, folder
        self.database = folder / "mlflow.db"
        shutil.copy(database, self.database)
        self.port = free_port()
        self.volume = folder / "home" / "volume"
        self.volume.mkdir(parents=True)
        self.engine = Engine(self.volume)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        pod = self.namespace.pod(POD)
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.namespace.server.kubeconfig("agent")),
            "POD_NAME": POD,
            "POD_NAMESPACE": pod.namespace,
            "POD_UID": pod.uid,
            "POD_IP": "10.1.2.3",
            "ATELIER_POOL": "stable",
            "ATELIER_HOME": str(self.folder / "home"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.database}",
        }
        command = [sys.executable, "-m", "services.agent", "--kubernetes", "--port", str(self.port)]
        self._process = spawn(command, env=environment, cwd=ROOT, log=self.log)
        until(lambda: self.ask("/healthz")[0] == 200, 120, lambda: tail(self.log, 30))

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            stop(process, grace=30)

    @property
    def log(self) -> Path:
        return self.folder / "agent.log"

    def ask(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as one:
                return one.status, one.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def serving(self) -> int | None:
        """The version that the engine answers by, as the Lease says."""
        report = self.report()
        return next((one.version for one in report.adapters if one.default), None)

    def report(self) -> Replica:
        lease = self.namespace.api("admin").get(LEASES, f"atelier-replica-{POD}")
        annotations: dict[str, Any] = lease["metadata"]["annotations"]
        return Replica.model_validate_json(annotations["atelier.dev/report"])


@pytest.fixture
def pod(
    namespace: Namespace, registered: tuple[Path, dict[int, str]], tmp_path: Path
) -> Iterator[Pod]:
    made = Pod(namespace, registered[0], tmp_path)
    yield made
    made.stop()
    made.engine.close()


def releases(digests: dict[int, str]) -> tuple[Release, Release]:
    """Of version 1, and of version 2 that knows version 1."""
    first = Release(adapter="thor-cat", base=BASE, version=1, digest=digests[1])
    return first, first.with_version(Pin(version=2, digest=digests[2]), "promoted")


def test_upgrade_and_rollback_without_mlflow(
    pod: Pod,
    namespace: Namespace,
    registered: tuple[Path, dict[int, str]],
    record_property: Callable[[str, object], None],
) -> None:
    first, second = releases(registered[1])
    namespace.release(first)
    pod.start()
    until(lambda: pod.ask("/readyz")[0] == 200, 120, lambda: tail(pod.log, 30))
    until(lambda: pod.serving() == 1)
    report = pod.report()
    assert (report.replica, report.address, report.grpc) == (POD, "10.1.2.3:8080", "10.1.2.3:9000")
    assert report.pool == "stable" and report.error is None
    namespace.release(second)
    until(lambda: pod.serving() == 2, 60, lambda: tail(pod.log, 30))
    away = pod.database.rename(pod.folder / "away.db")
    for release in (first, second, first):  # rollback, forth again, and back
        namespace.release(release)
        seconds = until(lambda release=release: pod.serving() == release.version, 30)
        assert pod.report().error is None, pod.report().error
        record_property(f"seconds to version {release.version}", round(seconds, 2))
    metrics = pod.ask("/metrics")[1]
    assert "atelier_agent_fetch_failures_total 0.0" in metrics
    assert f'digest="{registered[1][1]}",version="1"' in metrics
    away.rename(pod.database)
    pod.stop()
    with pytest.raises(NotFound):
        pod.report()  # withdrawn at once, so that nobody asks a pod that ends


def test_an_api_server_that_is_away_and_an_agent_that_restarts_meanwhile(
    pod: Pod, namespace: Namespace, registered: tuple[Path, dict[int, str]]
) -> None:
    first, second = releases(registered[1])
    namespace.release(first)
    pod.start()
    until(lambda: pod.ask("/readyz")[0] == 200, 120, lambda: tail(pod.log, 30))
    until(lambda: pod.serving() == 1)
    namespace.server.stop_server()
    try:
        pod.stop(signal.SIGKILL)
        pod.start()
        until(lambda: pod.ask("/readyz")[0] == 200, 60, lambda: tail(pod.log, 30))
        wanted = json.loads((pod.volume / "wanted.json").read_bytes())["adapters"]
        assert [one["version"] for one in wanted] == [1]
        message = "releases may be out of date: the API server"  # of the round after the first
        until(lambda: message in pod.log.read_text(), 30, lambda: tail(pod.log, 30))
    finally:
        namespace.server.start_server()
    namespace.release(second)
    until(lambda: pod.serving() == 2, 60, lambda: tail(pod.log, 30))
    until(lambda: pod.report().error is None)


def test_a_package_that_is_not_what_the_release_pins_and_a_pod_that_is_not_ready(
    pod: Pod, namespace: Namespace, registered: tuple[Path, dict[int, str]]
) -> None:
    wrong = {1: registered[1][2], 2: registered[1][2]}  # version 1 is another package
    namespace.release(releases(wrong)[0])
    namespace.put("broken", {"release.json": "{"})
    pod.start()
    until(
        lambda: "contains package sha256" in pod.ask("/readyz")[1], 120, lambda: tail(pod.log, 30)
    )
    assert pod.ask("/readyz")[0] == 503
    assert not (pod.volume / "packages" / hex_of(wrong[1])).exists()
    until(lambda: "release-broken: not a release" in (pod.report().error or ""))
    namespace.release(releases(registered[1])[0])
    until(lambda: pod.ask("/readyz")[0] == 200, 60, lambda: tail(pod.log, 30))
