"""A canary of the engine: another backend beside the stable one takes a share, all, and nothing.

The canary runs the same base by ONNX Runtime, compiled by a Job. Every picture names what ran its
UNet, so the shares are counted in what the clients got.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from services.gateway.balance import pool_of
from services.gateway.keys import KeyStore
from tests.cluster.e2e.platform import Platform
from tests.cluster.e2e.traffic import PROMPTS, Load, Oracle
from tests.cluster.e2e.trainings import Trainings

POOL, BACKENDS = "next", {"stable": "torch", "next": "onnx"}
# A condition that kubectl waits for must be of the generation that there is: see kserve_ready.
READY = "--for=jsonpath={.status.conditions[?(@.type=='Ready')].status}=True"
KEYS, FEW = 100, 30  # a share that is everything or nothing shows in fewer
Keys = dict[str, str]  # key by its id


@pytest.fixture
def compiled(trainings: Trainings, released: Platform, tmp_path: Path) -> str:
    """The key of the base's UNet for ONNX Runtime, compiled by a Job."""
    words = ("compile", str(released.base), "--submit", "--follow")
    made = trainings.run(*words, log=tmp_path / "compile.log").answer(600)
    return str(made["key"])


@pytest.fixture
def keys(released: Platform) -> Keys:
    """Many callers, as a gateway's shares are by key."""
    store = KeyStore(released.database)
    made = [store.create(f"caller-{number}") for number in range(KEYS)]
    return {record.id: key for key, record in made}


@pytest.fixture
def stable(released: Platform) -> Iterator[Platform]:
    """Without a canary again at the end, whatever happened."""
    yield released
    released.values["serving"].pop("canary", None)
    released.helm_upgrade(wait=True)


def served(platform: Platform, oracle: Oracle, keys: Keys, times: int) -> dict[str, str]:
    """By a key's id: the one backend that all its pictures came from. Each picture is checked."""

    def ask(id: str, number: int) -> str:
        asked = (PROMPTS[number % len(PROMPTS)], 0)
        name = ("thor", None)[number]
        picture = platform.draw(*asked, adapter=name, gateway=gateway, key=keys[id])
        assert oracle.agrees(asked, picture), (asked, name, picture.backend)
        return picture.backend

    gateway = platform.gateway
    calls = list(itertools.product(keys, range(times)))
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda call: ask(*call), calls))
    by_key = {
        id: {one for (who, _), one in zip(calls, found, strict=True) if who == id} for id in keys
    }
    assert all(len(backends) == 1 for backends in by_key.values()), "a key changed its pool"
    return {id: backends.pop() for id, backends in by_key.items()}


@pytest.mark.timeout(1200)
def test_a_new_engine_gets_its_share_then_all_then_none(
    stable: Platform,
    oracle: Oracle,
    compiled: str,
    keys: Keys,
    record_property: Callable[[str, object], None],
) -> None:
    """Under load; nobody's call fails, and a growing canary keeps the keys that it had."""
    before: set[str] = set()
    load = Load(stable, list(keys.values()), pause=0.3)
    with load.running(clients=1):
        for percent in (20, 100, 0):
            canary = {"name": POOL, "percent": percent, "compiled": compiled}
            canary["engine"] = {"backend": BACKENDS[POOL]}
            stable.values["serving"]["canary"] = [canary] if percent else []
            stable.helm_upgrade(wait=True)
            stable.kube("wait", "isvc/atelier", READY, "--timeout=300s")
            expected = {id: BACKENDS[pool_of({POOL: percent}, id)] for id in keys}
            there = partial(follows, stable, keys, expected)
            stable.wait_for(there, f"{percent} %", 120)
            asked = keys if percent == 20 else dict(list(keys.items())[:FEW])
            found = served(stable, oracle, asked, times=2 if percent == 20 else 1)
            assert found == {id: expected[id] for id in asked}
            mine = {id for id, backend in found.items() if backend == BACKENDS[POOL]}
            assert before & asked.keys() <= mine or not percent
            before = mine
            share = Counter(found.values())[BACKENDS[POOL]] / len(asked)
            record_property(f"share of {len(asked)} keys at {percent} %", f"{share:.0%}")
    assert load.failures == []
    assert all(oracle.agrees(asked, one) for _, asked, one in load.drawn)
    record_property("requests beside it, none failed", len(load.answers))
    runs = partial(stable.there, "deployment", f"atelier-{POOL}-predictor")
    stable.wait_for(lambda: not runs(), "the canary's end")


def follows(platform: Platform, keys: Keys, expected: dict[str, str]) -> bool:
    """Whether both gateways' answers are from the pool expected, for a key of each pool."""
    some = {backend: id for id, backend in expected.items()}
    return all(
        platform.draw(PROMPTS[0], 0, key=keys[id]).backend == backend
        for backend, id in some.items()
        for _ in range(6)
    )
