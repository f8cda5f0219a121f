"""What the hook makes of releases and reports; tests/cluster/api has it on a real API server."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from atelier.environment import Environment, Released
from atelier.errors import BadInput
from atelier.gateways import Gateway, Routed
from atelier.registry import Registry
from atelier.release import Canary, Release
from atelier.replica import Held, Replica
from pipelines.hook import Hook, _smoke

BASE, ONE, TWO = (f"sha256:{64 * letter}" for letter in "b12")
NAME = "thor-cat"


class Clock:
    """Moves only while somebody waits."""

    def __init__(self) -> None:
        self.waited = 0.0

    def __call__(self) -> float:
        return self.waited

    def pause(self, seconds: float) -> None:
        self.waited += seconds


class Place:
    """One replica and one gateway that say what they are told to."""

    def __init__(self, clock: Clock, release: Release):
        self.release = release
        self.states: dict[str, str] = {}  # by digest
        self.routed = Routed(serving=release.digest)
        self._clock = clock
        reports: tuple[Any, Any] = Said(self._replica), Said(self._gateway)
        self.environment = Environment(cast(Any, self), *reports)

    def read(self) -> Released:
        return Released(releases={NAME: self.release})

    def _replica(self) -> Replica:
        held = tuple(
            Held.model_validate(
                {"name": NAME, "version": 1 + (digest == TWO), "digest": digest, "state": state}
                | {"default": digest == self.release.digest}
            )
            for digest, state in self.states.items()
        )
        told = {"replica": "pod-a", "base": BASE, "backend": "torch", "engine_digest": "e"}
        return Replica.model_validate(
            {**told, "heartbeat": time.time() + self._clock.waited, "adapters": held}
        )

    def _gateway(self) -> Gateway:
        return Gateway(gateway="g", heartbeat=0.0, routes={NAME: self.routed})


class Said:
    """One report, made when it is asked for."""

    def __init__(self, make: Callable[[], Any]):
        self._make = make

    def live(self) -> tuple[Any, ...]:
        return (self._make(),)


class Versions:
    """As much of a registry as the hook asks."""

    def __init__(self) -> None:
        self.alias: int | None = None

    def adapters(self) -> list[str]:
        return [NAME]

    def versions(self, _: str) -> list[Any]:
        return [
            SimpleNamespace(
                version=version,
                digest=digest,
                aliases=("production",) if version == self.alias else (),
            )
            for version, digest in ((1, ONE), (2, TWO))
        ]

    def set_alias(self, _: str, __: str, version: int) -> None:
        self.alias = version


class Free:
    """A lock that nobody else wants."""

    def held(self, *, wait: float) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def versions() -> Versions:
    return Versions()


def hook(place: Place, clock: Clock, versions: Versions) -> Hook:
    return Hook(
        place.environment,
        lambda: cast(Registry, versions),
        lambda _: cast(Any, Free()),
        environment="production",
        smoke=lambda _: None,
        clock=clock,
        pause=clock.pause,
    )


def test_a_release_serves_once_its_canary_does(clock: Clock, versions: Versions) -> None:
    share = Canary(version=2, digest=TWO, percent=10)
    release = Release(adapter=NAME, base=BASE, version=1, digest=ONE, canary=share)
    place = Place(clock, release)
    place.states = {ONE: "ready", TWO: "failed"}
    ended = hook(place, clock, versions).one(NAME, wait=60)
    assert ended.failed and "canary version 2: failed on pod-a" in ended.text
    place.states[TWO] = "ready"
    ended = hook(place, clock, versions).one(NAME, wait=60)
    assert ended.failed and "canary version 2: not yet routed by gateway g" in ended.text
    assert versions.alias is None
    place.routed = Routed(serving=ONE, canary=TWO)
    ended = hook(place, clock, versions).one(NAME, wait=60)
    assert not ended.failed and versions.alias == 1


def test_a_single_round_sees_a_failure(clock: Clock, versions: Versions) -> None:
    place = Place(clock, Release(adapter=NAME, base=BASE, version=2, digest=TWO))
    place.states = {TWO: "failed"}
    (ended,) = hook(place, clock, versions).every()
    assert ended.failed and "waits: failed on pod-a" in ended.text
    place.states = {TWO: "ready"}
    (ended,) = hook(place, clock, versions).every()
    assert not ended.failed and versions.alias == 2


def test_without_a_key_there_is_no_picture_and_so_no_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATELIER_KEY", raising=False)
    monkeypatch.delenv("ATELIER_SMOKE_REQUIRED", raising=False)
    smoke = _smoke("http://gateway")
    assert smoke is not None
    with pytest.raises(BadInput, match="ATELIER_KEY is not set; keep a key"):
        smoke(Release(adapter=NAME, base=BASE, version=2, digest=TWO))
    monkeypatch.setenv("ATELIER_SMOKE_REQUIRED", "false")
    assert _smoke("http://gateway") is None
