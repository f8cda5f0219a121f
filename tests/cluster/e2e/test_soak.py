"""Many releases in a row under load: nothing fails, and nobody's memory grows. `make e2e-soak`."""

import itertools
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable

import pytest

from atelier.adapter.package import Package
from tests.cluster.e2e.platform import Platform
from tests.cluster.e2e.traffic import PROMPTS, Load, Oracle, direct
from tests.tiny import tiny_adapter

ROUNDS = int(os.environ.get("ATELIER_SOAK") or 0)  # an upgrade and a rollback each
VERSIONS = 6  # more than an agent keeps, so that it fetches and forgets all the time
GROWTH = 1.10  # of a part's memory, from the second fifth of the rounds to the last
SLACK = 16 << 20  # bytes that small parts may move by
ASKED = (PROMPTS[3], 5)
Memory = dict[str, int]  # bytes that are resident, by pod and container


@pytest.fixture
def versions(
    released: Platform, oracle: Oracle, tmp_path_factory: pytest.TempPathFactory
) -> list[int]:
    """Of thor, prepared: registered, never trained."""
    made = []
    for number in range(VERSIONS):
        folder = tmp_path_factory.mktemp("soak") / "thor"
        pin = released.register(tiny_adapter(released.base, folder, name="thor", seed=100 + number))
        oracle.learn(pin, Package.open(folder))
        made.append(pin.version)
    return made


@pytest.mark.skipif(not ROUNDS, reason="takes long: make e2e-soak")
@pytest.mark.timeout(3600)
def test_fifty_upgrades_and_rollbacks(
    released: Platform,
    oracle: Oracle,
    versions: list[int],
    record_property: Callable[[str, object], None],
) -> None:
    pins = {pin.version: pin for pin, _ in released.pins["thor"]}
    before = released.identities()
    memory, forth, back = [], [], []
    load = Load(released)
    (first,) = answers(released)
    with load.running(clients=2):
        for number, version in zip(range(ROUNDS), itertools.cycle(versions)):
            began = time.monotonic()
            released.release("thor", version)
            forth.append(time.monotonic() - began)
            assert answers(released) == {pins[version].digest}
            began = time.monotonic()
            released.rollback("thor")
            back.append(time.monotonic() - began)
            assert answers(released) == {first}
            memory.append(resident(released))
            assert load.failures == []
            print(f"{number + 1}: {forth[-1]:.1f} s forth, {back[-1]:.1f} s back", memory[-1])
    assert load.failures == []
    assert all(oracle.agrees(asked, one) for _, asked, one in load.drawn)
    assert released.identities() == before
    record_property("upgrades and rollbacks", f"{len(forth)} and {len(back)}")
    record_property("requests under them, none failed", len(load.answers))
    record_property("upgrade, hook included, s (median)", round(statistics.median(forth), 1))
    record_property("rollback, hook included, s (median)", round(statistics.median(back), 1))
    fifth = max(1, len(memory) // 5)
    grown = {}
    for part, (early, late) in compare(memory[fifth : 2 * fifth], memory[-fifth:]).items():
        record_property(f"{part}, MiB", f"{early / 2**20:.0f} to {late / 2**20:.0f}")
        if late > early * GROWTH + SLACK:
            grown[part] = (early, late)
    assert not grown


def answers(platform: Platform) -> set[str]:
    """The digests by which the pods answer, asked directly and by name alone."""
    return {direct(pod, ASKED).digest for pod in platform.pods("serving")}


def resident(platform: Platform) -> Memory:
    """Of the platform's containers, as the kubelet measures them."""
    found: Memory = {}
    nodes = json.loads(platform.kube("get", "nodes", "-o", "json", namespaced=False))["items"]
    for node in nodes:
        path = f"/api/v1/nodes/{node['metadata']['name']}/proxy/stats/summary"
        for pod in json.loads(platform.kube("get", "--raw", path, namespaced=False))["pods"]:
            name, namespace = pod["podRef"]["name"], pod["podRef"]["namespace"]
            if namespace == platform.namespace and name.startswith(("atelier-p", "atelier-g")):
                for one in pod.get("containers", ()):
                    found[f"{name} {one['name']}"] = one["memory"].get("rssBytes", 0)
    return found


def compare(early: Iterable[Memory], late: Iterable[Memory]) -> dict[str, tuple[float, float]]:
    """Medians by container name, over pods: early and late."""
    sides = []
    for samples in (early, late):
        by_part = defaultdict(list)
        for sample in samples:
            for name, value in sample.items():
                by_part[name.partition(" ")[2]].append(value)
        sides.append({part: statistics.median(values) for part, values in by_part.items()})
    return {part: (sides[0][part], sides[1][part]) for part in sides[0]}
