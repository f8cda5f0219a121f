"""Promotion against a real registry: verdicts are repeated, the alias follows what serves, and a
promotion killed at any step leaves a state that the next command makes whole."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from atelier.errors import AtelierError, BadInput, Refused, Unavailable
from atelier.home import Home
from atelier.registry import Registry
from atelier.release import ReleaseFolder
from pipelines.intent import IntentFolder
from pipelines.promote import retire, rollback, settle
from tests.judged import DIGEST as BASE
from tests.judged import GOOD, policy
from tests.promoted import Adapter, State, package


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture(scope="module")
def shared(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    return Adapter(registry, tmp_path_factory.mktemp("packages"))


@pytest.fixture
def cat(shared: Adapter, home: Home) -> Adapter:
    return shared.at(home)


def test_a_version_serves_and_the_alias_follows_the_verified_release(cat: Adapter) -> None:
    cat.report(v1="ready")
    asked: list[tuple[str, int]] = []
    standing = cat.promote(1, smoke=lambda name, version: asked.append((name, version)))
    assert standing.state == "serving"
    assert (cat.released, cat.alias) == (1, 1)
    assert asked == [(cat.name, 1)]
    release = ReleaseFolder(cat.home.releases).get(cat.name)
    assert release is not None
    assert release.digest == cat.digests[1]
    assert cat.promote(1).state == "serving"  # again: nothing to do
    assert release == ReleaseFolder(cat.home.releases).get(cat.name)


def test_without_replicas_the_alias_waits_for_the_first_one(cat: Adapter) -> None:
    standing = cat.promote(1)
    assert standing.state == "pending"
    assert (cat.released, cat.alias) == (1, None)
    cat.report(v1="ready")
    assert [one.state for one in settle(cat.home, cat.registry)] == ["serving"]
    assert (cat.released, cat.alias, cat.under_way) == (1, 1, False)


def test_a_replica_that_cannot_load_it_gets_the_old_release_back(cat: Adapter) -> None:
    cat.report(v1="ready")
    cat.promote(1)
    cat.report(v1="ready", v2="failed")
    with pytest.raises(Refused, match=r"shapes do not fit") as caught:
        cat.promote(2)
    assert "version 1 is released" in str(caught.value)
    assert (cat.released, cat.alias, cat.under_way) == (1, 1, False)


def test_a_first_version_that_fails_leaves_nothing_released(cat: Adapter) -> None:
    cat.report(v1="failed")
    with pytest.raises(Refused, match="taken back"):
        cat.promote(1)
    assert (cat.released, cat.alias, cat.under_way) == (None, None, False)


def test_waiting_ends_and_takes_the_release_back(cat: Adapter) -> None:
    cat.report(v1="ready")
    cat.promote(1)
    cat.report(v1="ready", v2="loading")
    with pytest.raises(Refused, match=r"not yet ready on r0 after 0\.3 s"):
        cat.promote(2)
    assert (cat.released, cat.alias, cat.under_way) == (1, 1, False)


def test_a_failed_smoke_check_takes_the_release_back(cat: Adapter) -> None:
    cat.report(v1="ready", v2="ready")
    cat.promote(1)

    def smoke(name: str, version: int) -> None:
        raise AtelierError(f"{name}@{version} makes grey pictures")

    with pytest.raises(Refused, match="makes grey pictures"):
        cat.promote(2, smoke=smoke)
    assert (cat.released, cat.alias) == (1, 1)


def test_a_gateway_that_is_away_is_asked_again_until_the_time_is_over(cat: Adapter) -> None:
    cat.report(v1="ready")
    asked = []

    def smoke(name: str, version: int) -> None:
        asked.append(version)
        if len(asked) < 3:
            raise Unavailable("gateway away")

    assert cat.promote(1, smoke=smoke, wait=30.0).state == "serving"
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"subject": GOOD | {"subject": 0.3}, "accepted": True}, "not recognised"),
        ({"digest": "sha256:" + "9" * 64}, "speaks of"),
        ({"adapter": "another"}, "speaks of another"),
        ({"scorers": {"clip": "mine", "dino": "mine"}}, "scorers"),
    ],
    ids=["claims to be accepted", "another digest", "another adapter", "other scorers"],
)
def test_a_verdict_is_repeated_not_believed(
    cat: Adapter, changes: dict[str, Any], word: str
) -> None:
    version = cat.add(random.randrange(1000, 9999), **changes)
    with pytest.raises(Refused, match=word):
        cat.promote(version)
    assert cat.released is None


def test_an_unjudged_version_is_refused(cat: Adapter) -> None:
    made = package(cat.folder / "unjudged", cat.name, 9)
    version = cat.registry.register(made, run_id=None)
    with pytest.raises(Refused, match="nobody has judged it"):
        cat.promote(version)


def test_an_environment_may_ask_for_more(cat: Adapter) -> None:
    stricter = policy(gates={"subject": {"min": 0.95}})
    with pytest.raises(Refused, match=r"below the limit of 0\.950"):
        cat.promote(1, policy=stricter)


def test_an_adapter_for_another_base_is_refused_at_once(cat: Adapter) -> None:
    other = "sha256:" + "e" * 64
    cat.report(base=other, v1="ready")
    with pytest.raises(Refused) as caught:
        cat.promote(1)
    assert other in str(caught.value)
    assert BASE in str(caught.value)


def test_rollback_serves_the_previous_version_and_the_alias_follows(cat: Adapter) -> None:
    cat.report(v1="ready", v2="ready")
    cat.promote(1)
    cat.promote(2)
    assert (cat.released, cat.alias) == (2, 2)
    standing = rollback(cat.name, registry=cat.registry, home=cat.home, reason="smudged")
    assert standing.state == "serving"
    assert (cat.released, cat.alias) == (1, 1)
    with pytest.raises(AtelierError, match="no earlier version"):
        rollback(cat.name, registry=cat.registry, home=cat.home)


def test_rollback_needs_no_registry_and_says_that_the_alias_is_to_follow(cat: Adapter) -> None:
    cat.report(v1="ready", v2="ready")
    cat.promote(1)
    cat.promote(2)
    standing = rollback(cat.name, registry=None, home=cat.home)
    assert (standing.state, cat.released) == ("pending", 1)
    assert "registry is away" in standing.message
    assert cat.alias == 2
    assert settle(cat.home, cat.registry)[0].state == "serving"
    assert cat.alias == 1


def test_a_rollback_is_never_taken_back_by_a_stumbling_replica(cat: Adapter) -> None:
    cat.report(v1="ready", v2="ready")
    cat.promote(1)
    cat.promote(2)
    cat.report(v1="failed", v2="ready")
    standing = rollback(cat.name, registry=cat.registry, home=cat.home, wait=0.2)
    assert standing.state == "pending"
    assert "shapes do not fit" in standing.message
    assert (cat.released, cat.alias) == (1, 2)


def test_a_rollback_overtakes_a_promotion_that_waits(cat: Adapter) -> None:
    cat.report(v1="ready")
    cat.promote(1)
    cat.report(v1="ready", v2="ready")
    cat.promote(2)
    third = cat.add(3)
    cat.report(v1="ready", v2="ready", v3="ready")

    def smoke(name: str, version: int) -> None:  # somebody rolls back while version 3 is checked
        if version == third:
            rollback(name, registry=cat.registry, home=cat.home)

    with pytest.raises(Refused, match="version 2 is released"):
        cat.promote(third, smoke=smoke)
    assert (cat.released, cat.alias, cat.under_way) == (2, 2, False)


def test_retire_ends_release_and_alias(cat: Adapter) -> None:
    cat.report(v1="ready")
    cat.promote(1)
    assert retire(cat.name, registry=cat.registry, home=cat.home).state == "retired"
    assert (cat.released, cat.alias, cat.under_way) == (None, None, False)
    with pytest.raises(BadInput, match="not served here"):
        retire(cat.name, registry=cat.registry, home=cat.home)


def test_retire_without_the_registry_leaves_the_alias_to_settle(cat: Adapter) -> None:
    cat.report(v1="ready")
    cat.promote(1)
    assert retire(cat.name, registry=None, home=cat.home).state == "pending"
    assert (cat.released, cat.alias) == (None, 1)
    assert settle(cat.home, cat.registry)[0].state == "retired"
    assert (cat.alias, cat.under_way) == (None, False)


def test_a_canary_is_tried_beside_what_serves(cat: Adapter) -> None:
    cat.report(v1="ready", v2="ready")
    with pytest.raises(BadInput, match="needs a version that serves"):
        cat.promote(2, canary=10)
    cat.promote(1)
    asked: list[int] = []
    standing = cat.promote(2, canary=10, smoke=lambda _, version: asked.append(version))
    assert standing.state == "serving"
    assert asked == [2]
    release = ReleaseFolder(cat.home.releases).get(cat.name)
    assert release is not None
    assert release.canary is not None
    assert (release.version, release.canary.version, release.canary.percent) == (1, 2, 10)
    assert cat.alias == 1
    cat.promote(2)
    assert (cat.released, cat.alias) == (2, 2)


def test_a_canary_that_fails_ends_and_the_rest_serves_on(cat: Adapter) -> None:
    cat.report(v1="ready", v2="failed")
    cat.promote(1)
    with pytest.raises(Refused, match="shapes do not fit"):
        cat.promote(2, canary=10)
    release = ReleaseFolder(cat.home.releases).get(cat.name)
    assert release is not None
    assert (release.version, release.canary, cat.alias) == (1, None, 1)


def test_release_and_registry_that_disagree_are_both_named(cat: Adapter) -> None:
    cat.report(v1="ready")
    cat.promote(1)
    releases = ReleaseFolder(cat.home.releases)
    release = releases.get(cat.name)
    assert release is not None
    forged = "sha256:" + "f" * 64
    releases.put(release.model_copy(update={"digest": forged}))
    standing = settle(cat.home, cat.registry)[0]
    assert standing.state == "disagrees"
    assert forged in standing.message
    assert cat.digests[1] in standing.message
    assert cat.alias == 1


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, nothing is cleaned up."""


class Fuse:
    """Kills before the n-th write that a promotion makes, wherever that is."""

    def __init__(self, at: int):
        self.at = at
        self.passed: list[str] = []

    def wrap(self, owner: type, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def fused(*args: Any, **kwargs: Any) -> Any:
            if len(self.passed) == self.at:
                raise Killed
            self.passed.append(f"{owner.__name__}.{name}")
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, fused)


WRITES = [
    (IntentFolder, "put"),
    (IntentFolder, "remove"),
    (ReleaseFolder, "put"),
    (ReleaseFolder, "remove"),
    (Registry, "set_alias"),
    (Registry, "remove_alias"),
]


def killed_at_each_write(
    build: Callable[[int], Adapter], act: Callable[[Adapter], object]
) -> Iterator[tuple[Adapter, list[str]]]:
    """The adapter after `act` was killed before its first write, its second, … and not at all."""
    for at in itertools.count():
        adapter, fuse, killed = build(at), Fuse(at), False
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in WRITES:
                fuse.wrap(owner, name, patch)
            try:
                act(adapter)
            except Killed:
                killed = True
            except Refused as error:
                assert "taken back" in str(error)
        yield adapter, fuse.passed
        if not killed:
            return


@pytest.mark.parametrize("outcome", ["ready", "failed"])
def test_killed_before_any_write_the_next_command_ends_in_a_whole_state(
    shared: Adapter, tmp_path: Path, outcome: State
) -> None:
    def build(number: int) -> Adapter:
        adapter = shared.at(Home(tmp_path / str(number)))
        adapter.report(v1="ready")
        adapter.promote(1)
        adapter.report(v1="ready", v2=outcome)
        return adapter

    seen: list[str] = []
    for adapter, seen in killed_at_each_write(build, lambda one: one.promote(2)):
        (standing,) = settle(adapter.home, adapter.registry)
        assert standing.state in ("serving", "restored"), (seen, standing)
        assert adapter.released == adapter.alias == standing.version, (seen, standing)
        assert not adapter.under_way, seen
        began = "ReleaseFolder.put" in seen
        assert adapter.released == (2 if began and outcome == "ready" else 1), seen
    end = ["Registry.set_alias"] if outcome == "ready" else ["ReleaseFolder.put"]
    assert seen == ["IntentFolder.put", "ReleaseFolder.put", *end, "IntentFolder.remove"]


def test_killed_while_retiring_it_serves_or_it_does_not(shared: Adapter, tmp_path: Path) -> None:
    def build(number: int) -> Adapter:
        adapter = shared.at(Home(tmp_path / str(number)))
        adapter.report(v1="ready")
        adapter.promote(1)
        return adapter

    def act(adapter: Adapter) -> object:
        return retire(adapter.name, registry=adapter.registry, home=adapter.home)

    seen: list[str] = []
    for adapter, seen in killed_at_each_write(build, act):
        settle(adapter.home, adapter.registry)
        assert adapter.released == adapter.alias, seen
        assert (adapter.released is None) == ("ReleaseFolder.remove" in seen), seen
        assert not adapter.under_way, seen
    assert len(seen) == 4


PROMOTION = """
import sys
from atelier.home import Home
from atelier.registry import Registry
from pipelines.promote import promote
from tests.judged import policy
name, uri, home = sys.argv[1:]
print("go", flush=True)
promote(name, 2, registry=Registry(uri), home=Home(__import__("pathlib").Path(home)),
        policy=policy(), wait=60)
"""


def test_a_process_killed_while_it_waits_is_finished_by_the_next(cat: Adapter) -> None:
    cat.report(v1="ready")
    cat.promote(1)
    cat.report(v1="ready", v2="loading")
    command = [sys.executable, "-c", PROMOTION, cat.name, cat.registry.uri, str(cat.home.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 180  # a busy machine imports MLflow slowly
        while cat.released != 2:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
    assert (cat.released, cat.alias, cat.under_way) == (2, 1, True)
    assert settle(cat.home, cat.registry)[0].state == "pending"
    cat.report(v1="ready", v2="ready")
    assert settle(cat.home, cat.registry)[0].state == "serving"
    assert (cat.released, cat.alias, cat.under_way) == (2, 2, False)
