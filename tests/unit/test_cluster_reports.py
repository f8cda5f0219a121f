"""Reports as Leases of ten thousand adapters; tests/cluster/api has small ones on a real server."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytest

from atelier.contract.gateway import Gateway, Routed
from atelier.contract.replica import Replica
from atelier.platform.api import CONFIG_MAPS, LEASES, ClusterAway, Object
from atelier.platform.informer import Listed
from atelier.platform.pod import Pod
from atelier.platform.release_configmaps import ClusterReleases
from atelier.platform.report_leases import ANNOTATION, ClusterReports
from atelier.platform.writer import Writer, _Written
from tests.cluster.apiserver import chart_rules
from tests.leases import ANNOTATIONS, Cluster, Followed
from tests.unit.test_shards import fleet, held

HEAD = "atelier-replica-pod-a"
NAME = "adapter-with-a-name-7"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cluster(clock: Clock) -> Cluster:
    return Cluster(clock)


def pod(name: str) -> Pod:
    return Pod(name, "atelier-test", f"uid-of-{name}", "10.0.0.1")


def writer(cluster: Cluster, clock: Clock, name: str = "pod-a") -> ClusterReports[Replica]:
    api: Any = cluster
    return ClusterReports(Replica, "replica", Followed(cluster), api, pod(name), clock=clock)


def reader(cluster: Cluster, clock: Clock) -> ClusterReports[Replica]:
    api: Any = cluster
    return ClusterReports(Replica, "replica", Followed(cluster), api, clock=clock)


def one_shot(cluster: Cluster, clock: Clock) -> ClusterReports[Replica]:
    """What a command looks with that ends again."""
    api: Any = cluster
    heads = [("labelSelector", "atelier.dev/report in (replica, gateway)")]
    source = Listed(api, LEASES, heads)
    return ClusterReports(Replica, "replica", source, api, lazy=True, clock=clock)


def told(reports: ClusterReports[Any], report: Any) -> None:
    """Tell it, and wait until it is written."""
    reports.put(report)
    writing = reports._writer
    assert writing is not None
    until(lambda: writing.idle)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.001)


def with_version(replica: Replica, name: str, version: int) -> Replica:
    adapters = replica.adapters.replaced({name: (held(name, version),)})
    return replica.model_copy(update={"adapters": adapters})


def test_ten_thousand_adapters_are_reported_and_read(cluster: Cluster, clock: Clock) -> None:
    replica = fleet()
    told(writer(cluster, clock), replica)
    (seen,) = reader(cluster, clock).live()
    assert seen.adapters == replica.adapters and len(seen.adapters) == 30_000
    sizes = [len(one["metadata"]["annotations"][ANNOTATION]) for one in cluster.objects.values()]
    assert max(sizes) < ANNOTATIONS
    assert len(cluster.objects[HEAD]["metadata"]["annotations"][ANNOTATION]) < 8 * 1024
    assert cluster.written[-1] == HEAD  # its shards are there before it names them
    owners = [one["metadata"]["ownerReferences"] for one in cluster.objects.values()]
    assert all(one == [pod("pod-a").owner()] for one in owners)


def test_a_heartbeat_writes_the_head_and_a_change_one_shard(cluster: Cluster, clock: Clock) -> None:
    reports, replica = writer(cluster, clock), fleet(1000)
    told(reports, replica)
    cluster.written.clear()
    clock.now += 2
    told(reports, replica.model_copy(update={"heartbeat": 1.0}))
    assert cluster.written == [HEAD] and cluster.deleted == []
    cluster.written.clear()
    told(reports, with_version(replica, NAME, 9))
    assert len(cluster.written) == 2 and cluster.written[-1] == HEAD
    assert len(cluster.deleted) == 1  # the shard that the head no longer names
    (seen,) = reader(cluster, clock).live()
    assert [one.version for one in seen.adapters.named(NAME)] == [9]


class Counted(Replica):
    """A replica's report that counts how often one was read."""

    reads: ClassVar = 0

    @classmethod
    def model_validate_json(cls, *given: Any, **more: Any) -> Any:
        Counted.reads += 1
        return super().model_validate_json(*given, **more)


def test_a_look_reads_what_has_changed_and_nothing_else(cluster: Cluster, clock: Clock) -> None:
    replica, writers = fleet(1000), []
    for number in range(10):
        one = writer(cluster, clock, f"pod-{number}")
        writers.append(one)
        told(one, replica.model_copy(update={"replica": f"pod-{number}"}))
    api: Any = cluster
    looked = ClusterReports(Counted, "replica", Followed(cluster), api, clock=clock)
    Counted.reads = 0
    first = looked.live()
    assert (len(first), Counted.reads) == (10, 10)
    again = looked.live()
    assert Counted.reads == 10
    assert all(now.adapters is was.adapters for now, was in zip(again, first, strict=True))
    clock.now += 2
    beat = replica.model_copy(update={"replica": "pod-3", "heartbeat": 1.0})
    told(writers[3], beat)
    looked.live()
    assert Counted.reads == 10  # renewed, with the same words
    told(writers[3], with_version(beat, NAME, 9))
    changed = looked.live()
    assert Counted.reads == 11
    assert changed[3].adapters.changed(first[3].adapters) == {NAME}


def test_a_one_shot_reader_asks_for_the_shard_that_it_looks_at(
    cluster: Cluster, clock: Clock
) -> None:
    replica = fleet(1000)
    told(writer(cluster, clock), replica)
    hook = one_shot(cluster, clock)
    (seen,) = hook.live()
    assert cluster.asked == []
    found = seen.adapters.named(NAME)
    assert found == replica.adapters.named(NAME) and len(cluster.asked) == 1
    (again,) = hook.live()
    assert again.adapters.named(NAME) == found and len(cluster.asked) == 1
    assert again.adapters == replica.adapters
    assert len(cluster.asked) == len(replica.adapters.sharded.parts)
    (overtaken,) = one_shot(cluster, clock).live()
    reports = writer(cluster, clock)
    told(reports, replica)
    told(reports, with_version(replica, NAME, 9))  # and the shard before is gone
    assert [one.version for one in overtaken.adapters.named(NAME)] == [9]
    (late,) = one_shot(cluster, clock).live()
    reports.remove("pod-a")
    with pytest.raises(ClusterAway, match="changed during reading; try again"):
        late.holds(NAME, "sha256:" + "1" * 64)


def test_a_one_shot_reader_does_not_believe_a_lease_that_nobody_renews(
    cluster: Cluster, clock: Clock
) -> None:
    """Its first look is its only one: it cannot wait and see whether the Lease is renewed."""
    told(writer(cluster, clock), fleet(3))
    clock.now += 4
    assert one_shot(cluster, clock).live()
    clock.now += 3
    assert one_shot(cluster, clock).live() == ()
    told(writer(cluster, clock), fleet(3))  # renewed
    assert one_shot(cluster, clock).live()


def test_a_reader_that_follows_judges_by_what_it_sees(cluster: Cluster, clock: Clock) -> None:
    told(writer(cluster, clock), fleet(3))
    follows = reader(cluster, clock)
    assert follows.live()
    clock.now += 4.9
    assert follows.live()
    clock.now += 0.2
    assert follows.live() == ()


def test_a_report_that_is_refused_is_an_error_in_the_log(
    cluster: Cluster, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    huge = fleet(3).model_copy(update={"error": "x" * 300_000})
    reports = writer(cluster, clock)
    reports.put(huge)
    until(lambda: reports.trouble)
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert "is refused, so this process counts as absent" in record.getMessage()
    assert "Too long" in record.getMessage()
    reports.put(fleet(3))
    until(lambda: not reports.trouble)
    assert reader(cluster, clock).live()
    reports.remove("pod-a")


def test_a_lease_that_is_no_report_is_named_once(
    cluster: Cluster, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    told(writer(cluster, clock), fleet(1000))
    shard = next(name for name in cluster.objects if name != HEAD)
    broken = dict(cluster.objects[shard])
    broken["metadata"] = {**broken["metadata"], "annotations": {ANNOTATION: "{}"}}
    cluster.objects[shard] = broken
    looked = reader(cluster, clock)
    assert looked.live() == looked.live() == ()
    assert caplog.text.count(f"Lease {HEAD}: contains no readable report") == 1


def test_many_shards_are_written_while_the_head_before_is_renewed(cluster: Cluster) -> None:
    """A report that takes longer to write than it is believed for must not look dead."""
    api: Any = cluster

    def renewed(head: Object) -> Object:
        return {**head, "spec": {"renewTime": "later"}}

    writing = Writer(api, LEASES, renewed=renewed, seconds=0.0)
    writing._write(_Written(lease("head", "first"), {}))
    parts = {name: partial(lease, name) for name in ("head.1", "head.2")}
    writing._write(_Written(lease("head", "second"), parts))
    assert cluster.written == ["head", *sorted(parts), "head"]  # nobody has said more meanwhile
    parts = {name: partial(lease, name) for name in ("head.3", "head.4")}
    writing._next = _Written(lease("head", "fourth"), {})  # and now somebody has
    writing._write(_Written(lease("head", "third"), parts))
    assert cluster.written[4:] == ["head.3", "head", "head.4", "head"]
    assert cluster.deleted == ["head.1", "head.2"]
    assert cluster.objects["head"]["spec"] == {"renewTime": "third"}


def lease(name: str, renew_time: str = "") -> Object:
    return {"metadata": {"name": name}, "spec": {"renewTime": renew_time}}


def test_the_roles_of_the_chart_allow_it(clock: Clock) -> None:
    serving, gateway, hook = (
        Cluster(clock, chart_rules(part)) for part in ("serving", "gateway", "hook")
    )
    api: Any = gateway
    routes = {f"adapter-{number}": Routed() for number in range(1000)}
    report = Gateway(gateway="gateway-a", heartbeat=1.0, routes=routes)
    gateways = ClusterReports(Gateway, "gateway", Followed(gateway), api, pod("g"), clock=clock)
    replicas = writer(serving, clock)
    told(gateways, report)
    told(replicas, fleet(1000))
    hook.objects = {**serving.objects, **gateway.objects}
    (seen,) = one_shot(hook, clock).live()
    assert seen.adapters.named(NAME)
    replicas.remove("pod-a")
    gateways.remove("gateway-a")
    assert serving.objects == gateway.objects == {}
    api = hook
    assert ClusterReleases(Listed(api, CONFIG_MAPS), api).find("adapter-1") is None


def test_gateways_report_ten_thousand_routes(cluster: Cluster, clock: Clock) -> None:
    api: Any = cluster
    one = "sha256:" + "1" * 64
    routes = {f"adapter-with-a-name-{n}": Routed(serving=one) for n in range(10_000)}
    gateway = Gateway(gateway="gateway-a", heartbeat=1.0, routes=routes)
    made = ClusterReports(Gateway, "gateway", Followed(cluster), api, pod("g"), clock=clock)
    told(made, gateway)
    (seen,) = made.live()
    assert seen.routes == gateway.routes
    made.remove("gateway-a")
    assert cluster.objects == {}
