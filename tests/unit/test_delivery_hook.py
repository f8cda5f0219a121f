"""What the hook makes of releases and reports; tests/cluster/api has it on a real API server."""

import io
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from atelier.contract.gateway import Gateway, Routed
from atelier.contract.replica import HeldAdapter, Replica
from atelier.contract.shards import Shards
from atelier.data.release import Canary, Pin, Release
from atelier.errors import BadInput, Unavailable
from atelier.stores.environment import Environment, Released
from atelier.stores.registry import Registry
from pipelines.delivery.cluster.follow import AliasFollower
from pipelines.delivery.cluster.hook import _smoke
from pipelines.delivery.cluster.hook_settings import HookSettings
from pipelines.delivery.smoke import ImageMismatch, Smoke
from pipelines.evaluate.attestations import JudgedImage, kept
from tests.judged import DIGEST as BASE
from tests.judged import evaluation, policy

ONE, TWO = (f"sha256:{64 * letter}" for letter in "12")
NAME = "thor-cat"
TWO_PIN = Pin(version=2, digest=TWO)


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
        return Released(releases=Shards({NAME: self.release}))

    def find(self, name: str) -> Release | None:
        return self.read().releases.get(name)

    def _replica(self) -> Replica:
        held = tuple(
            HeldAdapter.model_validate(
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
        self.tags: dict[int, dict[str, str]] = {1: {}, 2: {}}
        self.away_for_pictures = False

    def adapters(self) -> list[str]:
        return [NAME]

    def versions(self, _: str) -> list[Any]:
        return [
            SimpleNamespace(
                label=f"{NAME}@{version}",
                version=version,
                digest=digest,
                tags=self.tags[version],
                aliases=("production",) if version == self.alias else (),
            )
            for version, digest in ((1, ONE), (2, TWO))
        ]

    def version(self, name: str, version: int) -> Any:
        return self.versions(name)[version - 1]

    def tag(self, _: str, version: int, tags: dict[str, str]) -> None:
        self.tags[version] |= tags

    def attestations(self, info: Any) -> tuple[str, ...]:
        if self.away_for_pictures:
            raise Unavailable("MLflow does not answer")
        return tuple(self.attested) if info.version == 2 else ()

    def attestation(self, info: Any, filename: str) -> bytes | None:
        return self.attested.get(filename) if info.version == 2 else None

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
    smoke: Smoke = lambda release, pin, judged: "drawn",
) -> AliasFollower:
    return AliasFollower(
        place.environment,
        lambda: cast(Registry, versions),
        lambda _: cast(Any, Free()),
        alias="production",
        smoke=smoke,
        clock=clock,
        pause=clock.pause,
    )


def test_a_release_serves_once_its_canary_does(clock: Clock, versions: Versions) -> None:
    share = Canary(version=2, digest=TWO, percent=10)
    release = Release(adapter=NAME, base=BASE, version=1, digest=ONE, canary=share)
    place = Place(clock, release)
    place.states = {ONE: "ready", TWO: "failed"}
    ended = hook(place, clock, versions).follow(NAME, wait=60)
    assert ended.failed and "canary version 2: failed on pod-a" in ended.text
    place.states[TWO] = "ready"
    ended = hook(place, clock, versions).follow(NAME, wait=60)
    assert ended.failed and "canary version 2: not yet routed by gateway g" in ended.text
    assert versions.alias is None
    place.routed = Routed(serving=ONE, canary=TWO)
    ended = hook(place, clock, versions).follow(NAME, wait=60)
    assert not ended.failed and versions.alias == 1


def test_a_single_round_sees_a_failure(clock: Clock, versions: Versions) -> None:
    place = Place(clock, Release(adapter=NAME, base=BASE, version=2, digest=TWO))
    place.states = {TWO: "failed"}
    (ended,) = hook(place, clock, versions).follow_all()
    assert ended.failed and "does not serve yet: failed on pod-a" in ended.text
    place.states = {TWO: "ready"}
    (ended,) = hook(place, clock, versions).follow_all()
    assert not ended.failed and versions.alias == 2


def test_without_a_key_there_is_no_picture_and_so_no_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATELIER_KEY", raising=False)
    monkeypatch.delenv("ATELIER_SMOKE_REQUIRED", raising=False)
    smoke = _smoke("http://gateway", HookSettings.read())
    assert smoke is not None
    with pytest.raises(BadInput, match="ATELIER_KEY is not set; store a key"):
        smoke(Release(adapter=NAME, base=BASE, version=2, digest=TWO), TWO_PIN, ())
    monkeypatch.setenv("ATELIER_SMOKE_REQUIRED", "false")
    assert _smoke("http://gateway", HookSettings.read()) is None


def test_a_canary_is_drawn_too_before_its_release_counts_as_served(
    clock: Clock, versions: Versions
) -> None:
    drawn: list[int] = []

    def smoke(release: Release, pin: Pin, judged: Sequence[JudgedImage]) -> str:
        drawn.append(pin.version)
        if pin.version == 2 and broken:
            raise ImageMismatch("thor-cat@2 does not generate the evaluated image")
        return "drawn"

    broken = True
    share = Canary(version=2, digest=TWO, percent=10)
    place = Place(clock, Release(adapter=NAME, base=BASE, version=1, digest=ONE, canary=share))
    place.states = {ONE: "ready", TWO: "ready"}
    place.routed = Routed(serving=ONE, canary=TWO)
    versions.alias = 1  # the version beside which the canary comes is served already
    with pytest.raises(ImageMismatch):
        hook(place, clock, versions, smoke).follow(NAME, wait=60)
    assert drawn == [2]
    broken = False
    assert not hook(place, clock, versions, smoke).follow(NAME, wait=60).failed
    versions.alias, drawn[:] = None, []
    assert not hook(place, clock, versions, smoke).follow(NAME, wait=60).failed
    assert drawn == [1, 2] and versions.alias == 1


def test_a_way_back_is_not_held_up_by_pixels(
    clock: Clock, versions: Versions, caplog: pytest.LogCaptureFixture
) -> None:
    def smoke(release: Release, pin: Pin, judged: Sequence[JudgedImage]) -> str:
        if broken:
            raise ImageMismatch(f"{NAME}@{pin.version} does not generate the evaluated image")
        return "drawn"

    def serve(version: int, digest: str, base: str = BASE) -> None:
        place.release = Release(adapter=NAME, base=base, version=version, digest=digest)
        place.states, place.routed = {digest: "ready"}, Routed(serving=digest)
        hook(place, clock, versions, smoke).follow(NAME, wait=60)

    broken = False
    place = Place(clock, Release(adapter=NAME, base=BASE, version=1, digest=ONE))
    serve(1, ONE)
    broken = True
    with pytest.raises(ImageMismatch):
        serve(2, TWO)  # nobody has seen it serve
    versions.alias = 2
    serve(1, ONE)
    assert versions.alias == 1 and "served here before" in caplog.text
    versions.alias, versions.tags[1] = 2, {"atelier.served.production": "sha256:0 None"}
    with pytest.raises(ImageMismatch):
        serve(1, ONE)  # with another base that was


def test_what_was_judged_is_what_has_to_be_drawn(clock: Clock, versions: Versions) -> None:
    judged = evaluation(policy(), adapter=NAME, digest=TWO)
    (first,) = kept(judged)
    versions.attested["evaluation.json"] = judged.to_json().encode()
    given: list[Sequence[JudgedImage]] = []

    def smoke(release: Release, pin: Pin, samples: Sequence[JudgedImage]) -> str:
        given.append(samples)
        return "drawn"

    def asked() -> Sequence[JudgedImage]:
        versions.alias = None
        (ended,) = hook(place, clock, versions, smoke).follow_all()
        assert not ended.failed and versions.alias == 2
        return given.pop()

    place = Place(clock, Release(adapter=NAME, base=BASE, version=2, digest=TWO))
    place.states = {TWO: "ready"}
    assert asked() == ()  # an older program stored no pictures

    png = io.BytesIO()
    Image.new("RGB", (8, 8), (10, 20, 30)).save(png, "PNG")
    folder = judged.policy.removeprefix("sha256:")[:12]
    versions.attested[f"{folder}-{first.picture}"] = png.getvalue()
    (sample,) = asked()
    assert sample.image.getpixel((0, 0)) == (10, 20, 30)
    assert (sample.prompt, sample.seed) == ("sks cat on the beach", 0)
    assert (sample.sampling, sample.effect) == (judged.sampling, 0.1)

    # a newer verdict of another policy, drawn with another VAE: not what is released
    versions.attested[f"{folder}-evaluation.json"] = versions.attested["evaluation.json"]
    other = evaluation(policy(steps=11), digest=TWO, vae="sha256:" + "c" * 64)
    versions.attested["evaluation.json"] = other.to_json().encode()
    assert asked()[0].sampling == judged.sampling
    del versions.attested[f"{folder}-evaluation.json"]
    assert asked() == ()

    bare = {"subject": 0.8}  # a verdict that measured no effect
    judged = evaluation(policy(), adapter=NAME, digest=TWO, subject=bare)
    versions.attested["evaluation.json"] = judged.to_json().encode()
    assert [one.effect for one in asked()] == [None]

    versions.attested["evaluation.json"] = evaluation(policy(), digest=ONE).to_json().encode()
    assert asked() == ()  # a verdict about another package

    versions.away_for_pictures = True
    assert asked() == ()


def test_two_prompts_are_two_pictures(clock: Clock, versions: Versions) -> None:
    prompts = {"subject": ["{trigger}", "{trigger} at night", "{trigger} in snow"]}
    judged = evaluation(policy(prompts={**prompts, "unrelated": ["a red robot"]}), digest=TWO)
    versions.attested["evaluation.json"] = judged.to_json().encode()
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    folder = judged.policy.removeprefix("sha256:")[:12]
    versions.attested |= {f"{folder}-{one.picture}": png.getvalue() for one in kept(judged)}
    given: list[str] = []

    def smoke(release: Release, pin: Pin, samples: Sequence[JudgedImage]) -> str:
        given.extend(one.prompt for one in samples)
        return "drawn"

    place = Place(clock, Release(adapter=NAME, base=BASE, version=2, digest=TWO))
    place.states = {TWO: "ready"}
    hook(place, clock, versions, smoke).follow_all()
    assert given == ["sks cat", "sks cat at night"]


@pytest.mark.parametrize("said", ["0", "-1", "nan", "inf", "256", "much"])
def test_a_tolerance_that_makes_no_sense(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_SMOKE_TOLERANCE", said)
    with pytest.raises(BadInput, match=r"ATELIER_SMOKE_TOLERANCE=.*levels of 255"):
        HookSettings.read()
    monkeypatch.setenv("ATELIER_SMOKE_TOLERANCE", "7.5")
    assert HookSettings.read().smoke_tolerance == 7.5
