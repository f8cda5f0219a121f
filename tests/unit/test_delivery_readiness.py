"""How far a release has come, from what replicas and gateways report."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from atelier.contract.gateway import Gateway, GatewayFolder, Routed
from atelier.contract.replica import HeldAdapter, Replica, ReplicaFolder
from atelier.data.release import Canary, Release
from atelier.home import Home
from atelier.stores.environment import local
from pipelines.delivery.readiness import Readiness, release_readiness, retirement_readiness

BASE, OTHER_BASE = "sha256:" + "b" * 64, "sha256:" + "c" * 64
ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
NAME = "thor-cat"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def replica(
    home: Home,
    name: str,
    state: str,
    *,
    base: str = BASE,
    vae: str | None = None,
    age: float = 0.0,
    default: bool = True,
) -> None:
    held = HeldAdapter.model_validate(
        {"name": NAME, "version": 2, "digest": TWO, "state": state, "default": default}
    )
    told = Replica(
        replica=name,
        base=base,
        vae=vae,
        backend="torch",
        engine_digest="e",
        heartbeat=time.time() - age,
        adapters=(held,),
    )
    ReplicaFolder(home.replicas).put(told)


def gateway(home: Home, name: str, age: float = 0.0, **route: str) -> None:
    routes = {NAME: Routed.model_validate(route)} if route else {}
    told = Gateway(gateway=name, heartbeat=time.time() - age, routes=routes)
    GatewayFolder(home.gateways).put(told)


def look(home: Home, since: float = 60.0, *, canary: bool = False) -> Readiness:
    released = datetime.fromtimestamp(datetime.now(UTC).timestamp() - since, UTC)
    release = Release(adapter=NAME, base=BASE, version=2, digest=TWO, since=released)
    if canary:
        share = Canary(version=2, digest=TWO, percent=10)
        release = release.model_copy(update={"version": 1, "digest": ONE, "canary": share})
    return release_readiness(local(home), release, canary=canary)


def test_all_live_replicas_must_be_ready(home: Home) -> None:
    assert look(home).state == "absent"
    replica(home, "r0", "ready")
    assert look(home).state == "ready"
    replica(home, "r1", "loading")
    assert look(home).state == "loading"
    assert "r1" in look(home).detail
    replica(home, "r1", "failed")
    assert look(home).state == "failed"
    replica(home, "r1", "failed", age=30)  # dead: its word counts no more
    assert look(home).state == "ready"


def test_replicas_must_answer_by_it_where_no_version_is_named(home: Home) -> None:
    replica(home, "r0", "ready")
    replica(home, "r1", "ready", default=False)
    assert look(home) == Readiness("loading", "another version still serves on r1")
    assert look(home, canary=True).state == "ready"  # most calls are not the canary's


def test_all_live_gateways_must_route_to_it(home: Home) -> None:
    replica(home, "r0", "ready")
    gateway(home, "g0", serving=TWO)
    gateway(home, "g1")  # has not seen the release yet
    assert look(home) == Readiness("loading", "not yet routed by gateway g1")
    gateway(home, "g1", serving=ONE)
    assert look(home).state == "loading"
    gateway(home, "g1", serving=ONE, age=30)  # dead
    assert look(home).state == "ready"
    assert look(home, canary=True).state == "loading"
    gateway(home, "g0", serving=ONE, canary=TWO)
    assert look(home, canary=True).state == "ready"


def test_a_gateway_of_which_nothing_can_be_read_is_not_there(home: Home) -> None:
    replica(home, "r0", "ready")
    home.gateways.mkdir()
    (home.gateways / "g0.json").write_text("{")
    assert look(home).state == "ready"


def test_what_was_retired_is_gone_when_nobody_answers_by_it(home: Home) -> None:
    assert retirement_readiness(local(home), NAME).state == "absent"
    replica(home, "r0", "ready")
    gateway(home, "g0", serving=TWO)
    assert retirement_readiness(local(home), NAME) == Readiness("loading", "still served by g0, r0")
    gateway(home, "g0")
    replica(home, "r0", "ready", default=False)
    assert retirement_readiness(local(home), NAME).state == "absent"
    assert retirement_readiness(local(home), "another").state == "absent"


def test_a_failure_from_before_the_release_is_an_earlier_attempts(home: Home) -> None:
    replica(home, "r0", "failed")
    assert look(home, since=0.5).state == "loading"
    assert look(home, since=5.0).state == "failed"


def test_replicas_of_another_base_do_not_count_and_are_named(home: Home) -> None:
    replica(home, "r0", "ready", base=OTHER_BASE)
    seen = look(home)
    assert seen.state == "absent"
    assert BASE in seen.detail
    assert OTHER_BASE in seen.detail


def test_replicas_that_draw_with_another_vae_do_not_count(home: Home) -> None:
    replica(home, "r0", "ready", vae=OTHER_BASE)
    seen = look(home)
    assert seen.state == "absent"
    assert f"VAE {OTHER_BASE}" in seen.detail
