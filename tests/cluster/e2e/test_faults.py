"""What breaks is told, serving goes on with the last good release, and nothing is lost after it."""

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from atelier.adapter.package import MANIFEST, Package
from tests.cluster.e2e.away import mlflow_away, settle
from tests.cluster.e2e.platform import Platform
from tests.cluster.e2e.traffic import PROMPTS, Load, Oracle, direct
from tests.cluster.local import cluster, processes
from tests.cluster.local.settings import Settings
from tests.cluster.local.trouble import ClusterTroubleError
from tests.tiny import tiny_adapter

API_AWAY = 60.0  # seconds
ASKED = (PROMPTS[2], 3)
BROKEN = ("ConnectionResetError", "RemoteDisconnected", "IncompleteRead", "URLError")
FILLER = "/var/lib/atelier/filler"


def draws(platform: Platform, oracle: Oracle, name: str = "thor") -> str:
    """The digest that a fresh picture names, and its pixels are."""
    picture = platform.draw(*ASKED, adapter=name)
    assert oracle.agrees(ASKED, picture)
    return picture.digest


def test_the_way_back_needs_no_mlflow(released: Platform, oracle: Oracle) -> None:
    old, new = (pin.digest for pin, _ in released.pins["thor"])
    released.release("thor", 2)
    assert draws(released, oracle) == new
    with mlflow_away(released):
        released.rollback("thor")  # its hook ends well, and says that the alias follows
        assert draws(released, oracle) == old
        said = released.kube("logs", "job/hook-thor")
        assert "MLflow is away" in said
    released.wait_for(lambda: released.alias("thor") == 2, "MLflow")
    settle(released)
    assert released.alias("thor") == 1


def test_a_package_that_is_not_what_the_release_pins_never_serves(
    released: Platform, oracle: Oracle
) -> None:
    """The registry's version 2 of thor, pinned with the digest of another package."""
    old = released.pins["thor"][0][0].digest
    _, other = released.pins["loki"][1]
    values: dict[str, Any] = released.release_values("thor", 2)
    values["digest"] = other.digest
    values["manifests"] = {other.digest: (other.path / MANIFEST).read_text()}
    with pytest.raises(ClusterTroubleError, match="hook"):
        released.upgrade("thor", values)
    said = released.kube("logs", "job/hook-thor")
    assert "does not serve" in said and other.digest in said
    assert draws(released, oracle) == old
    released.rollback("thor")
    assert draws(released, oracle) == old
    assert released.alias("thor") == 1


@pytest.mark.alone
def test_an_api_server_that_is_away_for_a_minute_stops_no_picture(
    local: Settings,
    released: Platform,
    oracle: Oracle,
    record_property: Callable[[str, object], None],
) -> None:
    (server,) = [one for one in cluster.everything(local) if one.name == "kube-apiserver"]
    load = Load(released, pause=0.5)
    with load.running(clients=2):
        released.wait_for(lambda: load.failures or len(load.answers) >= 5, "load")
        processes.stop(local, server, signal.SIGKILL)
        try:
            time.sleep(API_AWAY)
        finally:
            processes.start(local, server)
        enough = len(load.answers) + 5
        released.wait_for(lambda: load.failures or len(load.answers) >= enough, "load")
    assert load.failures == []
    assert all(oracle.agrees(asked, one) for _, _, asked, one in load.answers)
    record_property(f"pictures while it was away for {API_AWAY:.0f} s", len(load.answers))
    released.wait_for(lambda: _answers(released), "the API server")
    for pod in released.pods("serving"):
        said = released.kube("logs", pod["metadata"]["name"], "-c", "agent")
        assert "releases may be out of date" in said
    released.release("loki", 2)
    assert draws(released, oracle, "loki") == released.pins["loki"][1][0].digest
    released.rollback("loki")


def test_a_full_volume_keeps_what_serves(
    released: Platform, oracle: Oracle, tmp_path: Path
) -> None:
    """No room for a new package on one replica: told, waited for, and served once there is."""
    old = draws(released, oracle)
    folder = tiny_adapter(released.base, tmp_path / "thor-3", name="thor", seed=99)
    pin = released.register(folder)
    oracle.learn(pin, Package.open(folder))
    pod = released.pods("serving")[0]["metadata"]["name"]
    agent = ("exec", pod, "-c", "agent", "--", "sh", "-c")
    released.kube(*agent, f"cat /dev/zero > {FILLER} 2> /dev/null || true")
    with ThreadPoolExecutor(1) as thread:
        try:
            releasing = thread.submit(released.release, "thor", pin.version)
            told = partial(released.kube, "logs", pod, "-c", "agent")
            released.wait_for(lambda: "MiB left" in told() or releasing.done(), "word")
            assert draws(released, oracle) == old and not releasing.done()
        finally:
            released.kube(*agent, f"rm {FILLER}")
        releasing.result()
    assert draws(released, oracle) == pin.digest
    released.rollback("thor")
    assert draws(released, oracle) == old


@pytest.mark.parametrize(
    ("component", "container", "process"),
    [
        ("serving", "kserve-container", "triton_python_backend_stub"),
        ("serving", "agent", ""),
    ],
)
def test_a_container_that_ends_comes_back(
    component: str, container: str, process: str, released: Platform, oracle: Oracle
) -> None:
    """The engine by SIGKILL; the agent, its container's first process, is asked to end at once."""
    old = draws(released, oracle)
    pod = released.pods(component)[0]["metadata"]["name"]
    before = restarts(released, component)
    kill(released, pod, container, process)
    released.wait_for(lambda: restarts(released, component) > before, "the restart", 120)
    released.wait_for(lambda: ready(released, component), "readiness", 240)
    assert draws(released, oracle) == old
    for one in released.pods("serving"):
        assert direct(one, ASKED).digest == old


@pytest.mark.parametrize("component", ["serving", "gateway", "postgresql"])
def test_a_killed_pod_is_replaced_and_loses_nothing(
    component: str,
    released: Platform,
    oracle: Oracle,
    record_property: Callable[[str, object], None],
) -> None:
    """SIGKILL to all of a pod. What was under way there may be told to try again, and no more."""
    old, used = draws(released, oracle), released.usage()
    (number, pod) = len(released.pods(component)), released.pods(component)[0]
    load = Load(released, pause=0.5, patient=True)
    with load.running(clients=2):
        released.wait_for(lambda: len(load.answers) >= 4, "load")
        words = ("--grace-period=0", "--force", "--wait=false")
        released.kube("delete", "pod", pod["metadata"]["name"], *words)
        there = partial(replaced, released, component, pod, number)
        released.wait_for(there, "another pod", 240)
        enough = len(load.answers) + 4
        released.wait_for(lambda: len(load.answers) >= enough, "load")
    seen = {one.partition(": ")[0] for one in load.failures}
    assert seen <= {"HTTP 503", *(BROKEN if component == "gateway" else ())}, load.failures
    assert all(oracle.agrees(asked, one) for _, _, asked, one in load.answers)
    called = len(load.failures) + len(load.answers)
    record_property(f"of {called} calls told to try again, or broken off", len(load.failures))
    assert draws(released, oracle) == old
    for one in released.pods("serving"):
        assert direct(one, ASKED).digest == old
    delivered = used + len(load.answers) + 1  # and the one that was drawn since
    assert delivered <= released.usage() <= delivered + len(load.failures)


def replaced(platform: Platform, component: str, pod: Any, number: int) -> bool:
    """Whether as many pods as before are ready, the killed one not among them."""
    found = platform.pods(component)
    uids = {one["metadata"]["uid"] for one in found}
    gone = pod["metadata"]["uid"] not in uids
    return gone and len(found) == number and ready(platform, component)


def kill(platform: Platform, pod: str, container: str, process: str) -> None:
    """SIGKILL to a process by its name, or the container's first process asked to end at once."""
    name = f"[{process[:1]}]{process[1:]}"  # so that the shell's own words do not fit
    found = f"for p in /proc/[0-9]*; do grep -qs '{name}' $p/cmdline && kill -9 ${{p#/proc/}}; done"
    script = found if process else "kill -INT 1"
    words = ("exec", pod, "-c", container, "--", "sh", "-c", script)
    with suppress(ClusterTroubleError):  # the shell may be killed with it
        platform.kube(*words)


def restarts(platform: Platform, component: str) -> int:
    return sum(
        one["restartCount"]
        for pod in platform.pods(component)
        for one in pod["status"].get("containerStatuses", ())
    )


def ready(platform: Platform, component: str) -> bool:
    return all(
        one["ready"]
        for pod in platform.pods(component)
        for one in pod["status"].get("containerStatuses", ())
    )


def _answers(platform: Platform) -> bool:
    try:
        platform.kube("get", "--raw", "/readyz", namespaced=False)
    except ClusterTroubleError:
        return False
    return True
