"""What breaks is told, serving goes on with the last good release, and nothing is lost after it."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from atelier.adapter.package import MANIFEST
from tests.cluster.e2e.platform import Platform
from tests.cluster.e2e.traffic import PROMPTS, Load, Oracle, direct
from tests.cluster.local import cluster, processes
from tests.cluster.local.settings import Settings
from tests.cluster.local.trouble import ClusterTroubleError

API_AWAY = 60.0  # seconds
ASKED = (PROMPTS[2], 3)


@contextmanager
def mlflow_away(platform: Platform) -> Iterator[None]:
    """Its Service leads nowhere; what it holds stays."""
    selector = platform.of("service", "atelier-mlflow")["spec"]["selector"]
    point_at(platform, {**selector, "app.kubernetes.io/component": "nobody"})
    try:
        yield
    finally:
        point_at(platform, selector)


def point_at(platform: Platform, selector: dict[str, str]) -> None:
    patch = json.dumps({"spec": {"selector": selector}})
    platform.kube("patch", "service", "atelier-mlflow", "--type=merge", "-p", patch)


def settle(platform: Platform) -> None:
    """Run the platform's CronJob now."""
    name = f"settle-{int(time.time())}"
    platform.kube("create", "job", name, "--from=cronjob/atelier-settle")
    platform.kube("wait", "--for=condition=Complete", f"job/{name}", "--timeout=180s")


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
    assert "does not serve" in said and "digest" in said
    assert draws(released, oracle) == old
    released.rollback("thor")
    assert draws(released, oracle) == old
    assert released.alias("thor") == 1


def test_an_api_server_that_is_away_for_a_minute_stops_no_picture(
    local: Settings,
    released: Platform,
    oracle: Oracle,
    record_property: Callable[[str, object], None],
) -> None:
    (server,) = [one for one in cluster.everything(local) if one.name == "kube-apiserver"]
    load = Load(released)
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
    released.release("loki", 2)
    assert draws(released, oracle, "loki") == released.pins["loki"][1][0].digest
    released.rollback("loki")


@pytest.mark.parametrize(
    ("component", "container", "how"),
    [
        ("serving", "kserve-container", "triton_python_backend_stub"),
        ("serving", "agent", ""),
        ("gateway", "gateway", ""),
        ("postgresql", "postgresql", ""),
    ],
)
def test_what_is_killed_comes_back(
    component: str, container: str, how: str, released: Platform, oracle: Oracle
) -> None:
    """One container of a pod is killed; what was under way there may fail, and nothing else."""
    old = released.pins["thor"][0][0].digest
    pod = released.pods(component)[0]["metadata"]["name"]
    before = restarts(released, component)
    kill(released, pod, container, how)
    released.wait_for(lambda: restarts(released, component) > before, "the restart", 120)
    released.wait_for(lambda: ready(released, component), "readiness", 240)
    assert draws(released, oracle) == old
    for one in released.pods("serving"):
        assert direct(one, ASKED).digest == old


def kill(platform: Platform, pod: str, container: str, process: str) -> None:
    """SIGKILL to a process by its name, or the container's first process asked to end at once."""
    found = (
        f"for p in /proc/[0-9]*; do grep -qs {process} $p/cmdline && kill -9 ${{p#/proc/}}; done"
    )
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
