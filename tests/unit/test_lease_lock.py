"""A lock among hooks outlives a hook that was killed, but not for ever."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from atelier.errors import Unavailable
from atelier.platform import LeaseLock
from atelier.platform.api import Conflict, NotFound, Object
from atelier.platform.lease_lock import LEASE_SECONDS
from pipelines.delivery.cluster import follow, hook


class Leases:
    """As much of an API server as a lock needs."""

    def __init__(self) -> None:
        self.kept: dict[str, Object] = {}
        self._version = 0

    def create(self, _: str, body: Object) -> Object:
        if body["metadata"]["name"] in self.kept:
            raise Conflict("it is there already")
        return self._write(body)

    def get(self, _: str, name: str) -> Object:
        if name not in self.kept:
            raise NotFound(name)
        return self.kept[name]

    def replace(self, _: str, body: Object) -> Object:
        there = self.get(_, body["metadata"]["name"])
        if there["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise Conflict("it was changed meanwhile")
        return self._write(body)

    def delete(self, _: str, name: str, *, version: str) -> None:
        if self.kept[name]["metadata"]["resourceVersion"] != version:
            raise Conflict("it was changed meanwhile")
        del self.kept[name]

    def _write(self, body: Object) -> Object:
        self._version += 1
        metadata = {**body["metadata"], "resourceVersion": str(self._version)}
        self.kept[metadata["name"]] = {**body, "metadata": metadata}
        return self.kept[metadata["name"]]


class Waiter:
    """A process with a clock of its own, which moves only while it waits."""

    def __init__(self, api: Any, holder: str):
        self.now = 0.0
        self.lock = LeaseLock(
            api, "atelier-alias-thor-cat", holder, clock=lambda: self.now, pause=self._pass
        )

    def _pass(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def leases() -> Leases:
    return Leases()


@pytest.fixture
def sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_lock_left_behind_is_taken_over_within_the_time_that_a_hook_waits(leases: Leases) -> None:
    Waiter(leases, "killed").lock._take(0.0)
    late = Waiter(leases, "late")
    with late.lock.held(wait=follow.LOCK_WAIT):
        (lease,) = leases.kept.values()
        assert lease["spec"]["holderIdentity"] == "late"
    assert leases.kept == {}


def test_a_lock_in_use_is_left_alone(leases: Leases) -> None:
    with Waiter(leases, "one").lock.held(wait=0.0):
        late = Waiter(leases, "two")
        with pytest.raises(Unavailable, match="is held by one"), late.lock.held(wait=60.0):
            pass
    assert late.now < 62.0


def test_whoever_was_away_for_too_long_does_not_go_on(leases: Leases) -> None:
    """Before the renewal notices: another may have the lock already."""
    one = Waiter(leases, "one")
    with one.lock.held(wait=0.0) as held:
        one.now += LEASE_SECONDS - 1
        held.require()
        one.now += 1
        with pytest.raises(Unavailable, match="could not be renewed in time"):
            held.require()


def test_a_renewal_that_succeeds_puts_the_end_off(leases: Leases) -> None:
    one = Waiter(leases, "one")

    class Once:
        """Lets one renewal happen."""

        def wait(self, _: float) -> bool:
            one.now += LEASE_SECONDS / 3
            return one.now > LEASE_SECONDS / 3 + 1

    with one.lock.held(wait=0.0) as held:
        one.lock._renew(held, Once())  # type: ignore[arg-type]
        one.now = LEASE_SECONDS
        held.require()
        one.now = LEASE_SECONDS * 4 / 3
        with pytest.raises(Unavailable, match="renewed in time"):
            held.require()


@pytest.mark.usefixtures("sigterm")
def test_a_hook_that_is_stopped_lets_go(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(_: object) -> None:
        with Waiter(leases, "one").lock.held(wait=0.0):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(hook, "run", stopped)
    with pytest.raises(SystemExit) as ended:
        hook.main(["thor-cat", "--environment", "production", "--gateway", "http://g"])
    assert ended.value.code == 143
    assert leases.kept == {}
