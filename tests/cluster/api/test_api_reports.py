"""Reports as Leases: renewed, judged by the reader's own clock, gone when withdrawn."""

import threading
import time
from pathlib import Path

import pytest

from atelier.contract.gateway import Gateway, Routed
from atelier.contract.replica import HeldAdapter, Replica
from atelier.errors import Unavailable
from atelier.platform import LeaseLock, listing, watching
from atelier.platform.api import LEASES
from atelier.platform.informer import Listed
from atelier.platform.report_leases import ClusterReports
from atelier.stores.environment import Environment
from tests.cluster.api.conftest import Namespace
from tests.cluster.apiserver import until
from tests.gateway import BASE, ONE


def replica(name: str, *, heartbeat: float, state: str = "ready") -> Replica:
    held = HeldAdapter.model_validate(
        {"name": "thor-cat", "version": 1, "digest": ONE.digest, "state": state}
    )
    return Replica(
        replica=name,
        base=BASE,
        backend="torch",
        engine_digest="e",
        heartbeat=heartbeat,
        adapters=(held,),
        address="10.0.0.1:8080",
        grpc="10.0.0.1:9000",
        pool="stable",
    )


@pytest.fixture
def gateway(namespace: Namespace, tmp_path: Path) -> Environment:
    return watching(namespace.api("gateway"), namespace.pod("gateway-a"), tmp_path / "gateway")


def names(environment: Environment) -> list[str]:
    return [one.replica for one in environment.replicas.live()]


def test_a_report_reaches_its_readers_and_goes_when_withdrawn(
    namespace: Namespace, gateway: Environment, tmp_path: Path
) -> None:
    pod = namespace.pod("pod-a")
    agent = watching(namespace.api("agent"), pod, tmp_path / "agent")
    assert names(gateway) == []
    agent.replicas.put(replica("pod-a", heartbeat=1.0))  # whatever that clock says
    until(lambda: names(gateway) == ["pod-a"])
    (seen,) = gateway.replicas.live()
    assert seen.holds("thor-cat", ONE.digest) and seen.address == "10.0.0.1:8080"
    assert abs(seen.heartbeat - time.time()) < 5  # the reader's own
    lease = namespace.api("admin").get(LEASES, "atelier-replica-pod-a")
    (owner,) = lease["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Pod", "pod-a", pod.uid)
    assert lease["metadata"]["labels"] == {"atelier.dev/report": "replica"}
    # a change is told at once, sameness every two seconds
    agent.replicas.put(replica("pod-a", heartbeat=2.0, state="loading"))
    until(lambda: gateway.replicas.live()[0].adapters[0].state == "loading")
    assert [one.replica for one in listing(namespace.api("hook")).replicas.live()] == ["pod-a"]
    agent.replicas.remove("pod-a")
    until(lambda: names(gateway) == [])


def test_gateways_report_in_the_same_way(namespace: Namespace, gateway: Environment) -> None:
    gateway.gateways.put(
        Gateway(gateway="gateway-a", heartbeat=1.0, routes={"thor-cat": Routed(serving=ONE.digest)})
    )
    hook = listing(namespace.api("hook"))
    until(hook.gateways.live)
    (one,) = hook.gateways.live()
    assert one.routes["thor-cat"].serving == ONE.digest
    assert hook.replicas.live() == ()


def test_a_report_that_is_no_longer_renewed_is_not_believed(namespace: Namespace) -> None:
    now = [0.0]
    api = namespace.api("agent")
    writer = ClusterReports(
        Replica, "replica", Listed(api, LEASES), api, namespace.pod("pod-a"), clock=lambda: now[0]
    )
    reader = ClusterReports(
        Replica,
        "replica",
        Listed(namespace.api("admin"), LEASES),
        namespace.api("admin"),
        clock=lambda: now[0],
    )
    writer.put(replica("pod-a", heartbeat=0.0))
    until(reader.live)
    now[0] = 4.9
    assert reader.live()
    now[0] = 5.1
    assert reader.live() == ()
    writer.put(replica("pod-a", heartbeat=9.0))
    until(reader.live)
    writer.remove("pod-a")


def test_silence_of_the_api_server_is_not_that_of_the_replicas(
    namespace: Namespace, gateway: Environment, tmp_path: Path
) -> None:
    agent = watching(namespace.api("agent"), namespace.pod("pod-a"), tmp_path / "agent")
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(0.5):
            agent.replicas.put(replica("pod-a", heartbeat=time.time()))

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        until(lambda: names(gateway) == ["pod-a"])
        namespace.server.stop_server()
        try:
            began = time.monotonic()
            while time.monotonic() - began < 7:  # longer than a silent replica is believed
                assert names(gateway) == ["pod-a"]
                time.sleep(0.2)
            assert "does not answer" in agent.replicas.trouble  # type: ignore[attr-defined]
            pod = namespace.pod("gateway-a")
            again = watching(namespace.api("gateway"), pod, tmp_path / "gateway")
            assert names(again) == ["pod-a"]  # a restart finds the addresses
        finally:
            namespace.server.start_server()
        until(lambda: agent.replicas.trouble == "")  # type: ignore[attr-defined]
        began = time.monotonic()
        while time.monotonic() - began < 6:
            assert names(gateway) == names(again) == ["pod-a"]
            time.sleep(0.2)
    finally:
        ended.set()
        thread.join()
    until(lambda: names(gateway) == [], 20)  # and now it is the replica's own silence


def test_a_lock_has_one_holder_and_outlives_none(namespace: Namespace) -> None:
    api = namespace.api("hook")
    mine = LeaseLock(api, "atelier-alias-thor-cat", "one")
    other = LeaseLock(api, "atelier-alias-thor-cat", "two", seconds=1)
    with mine.held(wait=0):
        third = LeaseLock(api, "atelier-alias-thor-cat", "three")
        with pytest.raises(Unavailable, match="is held by one"), third.held(wait=0.2):
            pass
        with other.held(wait=10):  # the first one seems to have died
            pass
    with mine.held(wait=0):
        pass
    assert api.list(LEASES)[0] == []
