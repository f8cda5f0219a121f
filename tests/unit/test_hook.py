"""What the hook makes of releases and reports; tests/cluster/api has it on a real API server."""

import io
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from atelier.environment import Environment, Released
from atelier.errors import BadInput, Refused, Unavailable
from atelier.gateways import Gateway, Routed
from atelier.registry import Registry
from atelier.release import Canary, Release
from atelier.replica import Held, Replica
from pipelines.evaluate.attested import Sample, kept
from pipelines.hook import Hook, _smoke
from pipelines.smoke import Smoke, alike
from services.gateway.images import encode_png
from tests.judged import evaluation, policy

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
        self.attested: dict[str, bytes] = {}  # beside version 2
        self.away_for_pictures = False

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

    def attestation(self, _: str, version: int, filename: str) -> bytes | None:
        if self.away_for_pictures:
            raise Unavailable("MLflow does not answer")
        return self.attested.get(filename) if version == 2 else None

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


def hook(
    place: Place,
    clock: Clock,
    versions: Versions,
    smoke: Smoke = lambda release, judged: "drawn",
) -> Hook:
    return Hook(
        place.environment,
        lambda: cast(Registry, versions),
        lambda _: cast(Any, Free()),
        environment="production",
        smoke=smoke,
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
        smoke(Release(adapter=NAME, base=BASE, version=2, digest=TWO), None)
    monkeypatch.setenv("ATELIER_SMOKE_REQUIRED", "false")
    assert _smoke("http://gateway") is None


def test_what_was_judged_is_what_has_to_be_drawn(clock: Clock, versions: Versions) -> None:
    judged = evaluation(policy(), adapter=NAME, digest=TWO)
    (first,) = kept(judged)
    versions.attested["evaluation.json"] = judged.to_json().encode()
    given: list[Sample | None] = []

    def smoke(release: Release, sample: Sample | None) -> str:
        given.append(sample)
        return "drawn"

    place = Place(clock, Release(adapter=NAME, base=BASE, version=2, digest=TWO))
    place.states = {TWO: "ready"}
    (ended,) = hook(place, clock, versions, smoke).every()
    assert not ended.failed and given == [None]  # an older program stored no pictures

    png = io.BytesIO()
    Image.new("RGB", (8, 8), (10, 20, 30)).save(png, "PNG")
    folder = judged.policy.removeprefix("sha256:")[:12]
    versions.attested[f"{folder}-{first.picture}"] = png.getvalue()
    versions.alias = None
    hook(place, clock, versions, smoke).every()
    sample = given.pop()
    assert sample is not None and sample.image.getpixel((0, 0)) == (10, 20, 30)
    assert (sample.prompt, sample.seed) == ("sks cat on the beach", 0)
    assert (sample.sampling, sample.effect) == (judged.sampling, 0.1)

    versions.attested["evaluation.json"] = evaluation(policy(), digest=ONE).to_json().encode()
    versions.alias = None
    hook(place, clock, versions, smoke).every()
    assert given.pop() is None  # a verdict about another package

    versions.away_for_pictures, versions.alias = True, None
    (ended,) = hook(place, clock, versions, smoke).every()
    assert not ended.failed and given.pop() is None and versions.alias == 2


@pytest.mark.parametrize(
    ("moved", "engine", "effect", "told"),
    [
        (0, "judge", 0.2, "0.00 of 255 levels from the judged picture, by the engine that"),
        (1, "judge", 0.2, "1.00 of 255 levels"),
        (3, "judge", 0.2, None),
        (3, "other", 0.2, "3.00 of 255 levels from the judged picture, by another engine than"),
        (5, "other", 0.2, None),
        (3, "other", 0.02, None),  # nearer to the base's own picture than to the adapter's
    ],
)
def test_how_near_a_picture_has_to_come(
    moved: int, engine: str, effect: float, told: str | None
) -> None:
    pixels = np.full((8, 8, 3), 100, dtype=np.uint8)
    sample = Sample(
        prompt="sks cat",
        seed=1,
        sampling=evaluation(policy()).sampling,
        engine_digest="judge",
        effect=effect,
        image=Image.fromarray(pixels),
    )
    png = encode_png(pixels + np.uint8(moved), {"engine_digest": engine})
    if told is not None:
        assert told in alike(png, sample, "thor-cat@2")
        return
    with pytest.raises(Refused, match="thor-cat@2 does not draw what was judged: 'sks cat', seed"):
        alike(png, sample, "thor-cat@2")
    small = encode_png(pixels[:4], {"engine_digest": engine})
    with pytest.raises(Refused, match="draws 8x4 pixels, but was judged at 8x8"):
        alike(small, sample, "thor-cat@2")
