"""What breaks is told, serving goes on with the last good release, and nothing is lost after it."""

import os
import secrets
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
from atelier.data.release import Pin
from tests.cluster.conftest import NAMED
from tests.cluster.e2e.away import damaged, mlflow_away, reconcile
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
        assert "MLflow is unavailable" in said
    released.wait_for(lambda: released.alias("thor") == 2, "MLflow")
    reconcile(released)
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


def test_a_package_that_is_damaged_in_the_registry_never_serves(
    released: Platform, oracle: Oracle, tmp_path: Path
) -> None:
    """One byte of its weights; mended, the same release serves."""
    old = draws(released, oracle)
    pin, package = prepared(released, oracle, tmp_path / "thor")
    with damaged(released, package):
        with pytest.raises(ClusterTroubleError, match="hook"):
            released.release("thor", pin.version)
        assert draws(released, oracle) == old
        told = f"thor@{pin.version} in the registry, adapter.safetensors: has digest"
        assert all(told in one for one in agents_said(released))
        released.rollback("thor")
    assert released.alias("thor") == 1
    released.release("thor", pin.version)
    assert draws(released, oracle) == pin.digest
    released.rollback("thor")
    assert draws(released, oracle) == old


def test_a_package_that_cannot_be_fetched_yet_serves_once_it_can(
    released: Platform, oracle: Oracle, tmp_path: Path
) -> None:
    """MLflow away during a release: told, waited for, and served when it is back."""
    old = draws(released, oracle)
    pin, _ = prepared(released, oracle, tmp_path / "thor")
    with ThreadPoolExecutor(1) as thread:
        with mlflow_away(released):
            releasing = thread.submit(released.release, "thor", pin.version)
            told = partial(agents_said, released)
            released.wait_for(lambda: all("MLflow at" in one for one in told()), "word of it")
            assert draws(released, oracle) == old and not releasing.done()
            assert ready(released, "serving")
        releasing.result()
    assert draws(released, oracle) == pin.digest
    released.rollback("thor")
    assert draws(released, oracle) == old


@pytest.mark.alone
def test_an_api_server_that_is_away_for_a_minute_stops_no_picture(
    local: Settings,
    released: Platform,
    oracle: Oracle,
    record_property: Callable[[str, object], None],
) -> None:
    (server,) = [one for one in cluster.all_programs(local) if one.name == "kube-apiserver"]
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
    assert all(oracle.agrees(asked, one) for _, asked, one in load.drawn)
    record_property(f"pictures while it was away for {API_AWAY:.0f} s", len(load.answers))
    released.wait_for(lambda: _answers(released), "the API server")
    assert all("releases may be out of date" in one for one in agents_said(released))
    released.release("loki", 2)
    assert draws(released, oracle, "loki") == released.pins["loki"][1][0].digest
    released.rollback("loki")


def test_a_full_volume_keeps_what_serves(
    released: Platform, oracle: Oracle, tmp_path: Path
) -> None:
    """No room for a new package on one replica: told, waited for, and served once there is."""
    old = draws(released, oracle)
    pin, _ = prepared(released, oracle, tmp_path / "thor")
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
        ("serving", "agent", "services.agent"),
    ],
)
def test_a_container_that_ends_comes_back(
    component: str, container: str, process: str, released: Platform, oracle: Oracle
) -> None:
    """By SIGKILL: the engine's own process, and the first one of a container."""
    old = draws(released, oracle)
    pod = released.pods(component)[0]
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
    seen = {str(one.error).partition(": ")[0] for one in load.failures}
    assert seen <= {"HTTP 503", *(BROKEN if component == "gateway" else ())}, load.failures
    assert all(oracle.agrees(asked, one) for _, asked, one in load.drawn)
    called = len(load.failures) + len(load.answers)
    record_property(f"of {called} calls told to try again, or broken off", len(load.failures))
    assert draws(released, oracle) == old
    for one in released.pods("serving"):
        assert direct(one, ASKED).digest == old
    delivered = used + len(load.answers) + 1  # and the one that was drawn since
    assert delivered <= released.usage() <= delivered + len(load.failures)


def prepared(platform: Platform, oracle: Oracle, folder: Path) -> tuple[Pin, Package]:
    """A version of thor that is registered, that the oracle can draw, and that no agent holds."""
    seed = secrets.randbelow(1 << 30)
    package = Package.open(tiny_adapter(platform.base, folder, name="thor", seed=seed))
    pin = platform.register(folder)
    oracle.learn(pin, package)
    return pin, package


def agents_said(platform: Platform) -> list[str]:
    """The log of each replica's agent."""
    return [
        platform.kube("logs", pod["metadata"]["name"], "-c", "agent")
        for pod in platform.pods("serving")
    ]


def replaced(platform: Platform, component: str, pod: Any, number: int) -> bool:
    """Whether as many pods as before are ready, the killed one not among them."""
    found = platform.pods(component)
    uids = {one["metadata"]["uid"] for one in found}
    gone = pod["metadata"]["uid"] not in uids
    return gone and len(found) == number and ready(platform, component)


def kill(platform: Platform, pod: Any, container: str, process: str) -> None:
    """SIGKILL to a process of a container, by its name.

    From inside the kernel keeps it from a container's first process. The local cluster's are also
    this machine's; on another cluster that one is asked to end.
    """
    if not NAMED:
        (found,) = [
            int(one.name)
            for one in Path("/proc").glob("[0-9]*")
            if _is(one, pod["metadata"]["uid"], process)
        ]
        os.kill(found, signal.SIGKILL)
        return
    name = f"[{process[:1]}]{process[1:]}"  # so that the shell's own words do not fit
    one = "case $p in /proc/1) kill -INT 1;; *) kill -9 ${p#/proc/};; esac"
    script = f"for p in /proc/[0-9]*; do grep -qs '{name}' $p/cmdline && {one}; done"
    words = ("exec", pod["metadata"]["name"], "-c", container, "--", "sh", "-c", script)
    with suppress(ClusterTroubleError):  # the shell may be killed with it
        platform.kube(*words)


def _is(process: Path, pod: str, name: str) -> bool:
    """Whether a process of this machine is that one of a pod, by the pod's uid."""
    try:
        there = pod in (process / "cgroup").read_text()
        return there and name.encode() in (process / "cmdline").read_bytes()
    except OSError:  # it has just ended
        return False


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
