"""What a look of the gateway costs: it decides the routes that may have changed, and no others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier.contract.gateway import Gateway, Routed
from atelier.contract.replica import HeldAdapter, Replica
from atelier.contract.shards import Shards
from atelier.data.release import Canary, Pin, Release
from atelier.stores.environment import Environment, Released
from services.gateway import releases
from services.gateway.releases import ReleaseWatch
from tests.gateway import BASE, Stage, manifest_of

COUNT, REPLICAS = 100, 10


class Reports:
    """Reports in memory, as a namespace's are."""

    def __init__(self, *reports: Any) -> None:
        self.reports: Sequence[Any] = reports
        self.put_: list[Gateway] = []

    def live(self) -> tuple[Any, ...]:
        return tuple(one for one in self.reports if one.live())

    def put(self, report: Any) -> None:
        self.put_.append(report)

    def remove(self, reporter: str) -> None:
        self.put_.clear()


class Place:
    """A namespace of adapters that are each served in one version by every replica."""

    def __init__(self, adapters: int = COUNT, replicas: int = REPLICAS) -> None:
        self.manifests: dict[str, Any] = {}
        self.released = Released(Shards({f"adapter-{n}": self.release(n) for n in range(adapters)}))
        held = [self.held(n) for n in range(adapters)]
        self.replicas = Reports(*(self.replica(f"pod-{n}", held) for n in range(replicas)))
        self.gateways = Reports()
        self.asked: list[str] = []  # manifests

    @property
    def environment(self) -> Environment:
        place: Any = self
        return Environment(place, self.replicas, self.gateways)

    def read(self) -> Released:
        return self.released

    def manifest(self, digest: str) -> Any:
        self.asked.append(digest)
        return self.manifests.get(digest)

    def digest(self, number: int, version: int) -> str:
        made = manifest_of(version, name=f"adapter-{number}")
        self.manifests[made.digest] = made
        return made.digest

    def release(self, number: int, version: int = 1) -> Release:
        digest = self.digest(number, version)
        return Release(adapter=f"adapter-{number}", base=BASE, version=version, digest=digest)

    def held(self, number: int, version: int = 1, state: str = "ready") -> HeldAdapter:
        digest = self.digest(number, version)
        fields = {"name": f"adapter-{number}", "version": version, "digest": digest}
        return HeldAdapter.model_validate({**fields, "state": state, "default": True})

    def replica(self, name: str, held: Sequence[HeldAdapter]) -> Replica:
        return Replica(
            replica=name,
            base=BASE,
            backend="painted",
            engine_digest="e",
            heartbeat=1e12,  # always live
            adapters=held,
        )

    def load(self, number: int, version: int, *, replicas: Sequence[int]) -> None:
        """Let some replicas hold a version beside the others."""
        reports = list(self.replicas.reports)
        for one in replicas:
            versions = reports[one].adapters
            name = f"adapter-{number}"
            more = (*versions.named(name), self.held(number, version))
            changed = {"adapters": versions.replaced({name: more})}
            reports[one] = reports[one].model_copy(update=changed)
        self.replicas.reports = reports


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The adapters whose routes are decided."""
    found: list[str] = []
    real = releases.decide

    def counted(release: Release, *given: Any, **more: Any) -> Any:
        found.append(release.adapter)
        return real(release, *given, **more)

    monkeypatch.setattr(releases, "decide", counted)
    return found


@pytest.fixture
def watch(place: Place, decided: list[str]) -> ReleaseWatch:
    """One that has looked."""
    made = ReleaseWatch(place.environment, poll=0.2)
    made.look()
    assert sorted(decided) == sorted(place.released.releases)
    decided.clear()
    place.asked.clear()
    return made


def test_a_look_with_nothing_changed_decides_nothing(
    watch: ReleaseWatch, place: Place, decided: list[str]
) -> None:
    before = watch.routes
    place.replicas.reports = [
        one.model_copy(update={"heartbeat": 2e12}) for one in place.replicas.reports
    ]
    watch.look()
    assert decided == [] and place.asked == [] and watch.routes is before
    assert watch.fleet.replicas[0].heartbeat == 2e12


def test_a_release_costs_its_own_route(
    watch: ReleaseWatch, place: Place, decided: list[str]
) -> None:
    newer = place.released.releases["adapter-7"].with_version(
        Pin(version=2, digest=place.digest(7, 2)), "promoted"
    )
    place.released = Released(place.released.releases.replaced({"adapter-7": newer}))
    watch.look()
    assert decided == ["adapter-7"] and watch.resolve("adapter-7").version == 1
    for one in range(REPLICAS):
        decided.clear()
        place.load(7, 2, replicas=[one])
        watch.look()
        assert decided == ["adapter-7"]
    assert watch.resolve("adapter-7").version == 2
    assert place.asked == [place.digest(7, 2)]  # and its manifest is read once


def test_a_gateways_report_shares_what_has_not_changed(watch: ReleaseWatch, place: Place) -> None:
    (first,) = place.gateways.put_
    watch.look()
    assert place.gateways.put_ == [first]  # within a heartbeat
    place.released = Released(place.released.releases.replaced({"adapter-7": None}))
    watch.look()
    second = place.gateways.put_[-1]
    assert second.routes.changed(first.routes) == {"adapter-7"}
    parts = zip(first.routes.sharded.parts, second.routes.sharded.parts, strict=True)
    assert sum(one is not other for one, other in parts) == 1


def test_a_replica_that_comes_or_goes_concerns_every_route(
    watch: ReleaseWatch, place: Place, decided: list[str]
) -> None:
    place.replicas.reports = place.replicas.reports[:-1]
    watch.look()
    assert sorted(decided) == sorted(place.released.releases)


def test_a_route_without_a_version_waits_for_the_other_gateways(
    place: Place, decided: list[str]
) -> None:
    """Nothing else tells that one of them has begun to serve it."""
    two = place.digest(7, 2)
    past = place.released.releases["adapter-7"].with_version(Pin(version=2, digest=two), "newer")
    place.released = Released(Shards({"adapter-7": past}))
    held = [place.held(7, 3)]
    place.replicas.reports = [place.replica("pod-0", held)]
    watch = ReleaseWatch(place.environment, poll=0.2)
    watch.look()
    assert watch.routes["adapter-7"].serving is None
    decided.clear()
    watch.look()
    assert decided == []
    serving = Routed(serving=place.digest(7, 3))
    place.gateways.reports = [
        Gateway(gateway="other", heartbeat=1e12, routes={"adapter-7": serving})
    ]
    watch.look()
    assert decided == ["adapter-7"]
    assert watch.resolve("adapter-7").version == 3


def test_a_manifest_that_comes_late_is_looked_for_again(place: Place, decided: list[str]) -> None:
    missing = place.manifests.pop(place.digest(7, 1))
    watch = ReleaseWatch(place.environment, poll=0.2)
    watch.look()
    decided.clear()
    watch.look()
    assert decided == ["adapter-7"] and watch.routes["adapter-7"].serving is None
    place.manifests[missing.digest] = missing
    watch.look()
    decided.clear()
    watch.look()
    assert decided == [] and watch.resolve("adapter-7").version == 1


def test_a_homes_look_reads_no_file_again(
    tmp_path: Path, decided: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from atelier.stores.environment import local

    stage = Stage(tmp_path)
    for number in range(20):
        one = manifest_of(1, name=f"adapter-{number}")
        stage.load(one, 1)
        stage.release(one, 1)
    watch = ReleaseWatch(local(stage.home), poll=0.2)
    watch.look()
    decided.clear()
    read: list[Path] = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or real(path))
    watch.look()
    assert read == [] and decided == []


class Anew(ReleaseWatch):
    """Decides every route at every look."""

    def _due(self, now: Any) -> set[str]:
        super()._due(now)
        return {*now.releases, *self.routes}


adapters, replicas, numbers = st.integers(0, 2), st.integers(0, 2), st.integers(1, 3)
steps = st.one_of(
    st.tuples(st.just("release"), adapters, numbers),
    st.tuples(st.just("retire"), adapters),
    st.tuples(st.just("canary"), adapters, numbers),
    st.tuples(st.just("unreadable"), adapters),
    st.tuples(
        st.just("hold"),
        replicas,
        adapters,
        numbers,
        st.sampled_from(("ready", "loading", "failed")),
    ),
    st.tuples(st.just("drop"), replicas, adapters),
    st.tuples(st.just("silent"), replicas),
    st.tuples(st.just("other base"), replicas),
    st.tuples(st.just("error"), replicas, st.sampled_from((None, "the disk is full"))),
    st.tuples(st.just("beside"), adapters, numbers),
    st.tuples(st.just("manifest"), adapters, numbers, st.booleans()),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, min_size=1, max_size=12))
def test_look_after_look_the_routes_are_as_if_all_were_decided_anew(moves: list[tuple]) -> None:
    place = Place(adapters=3, replicas=3)
    watch = ReleaseWatch(place.environment, poll=0.2)
    anew = Anew(place.environment, poll=0.2)
    for kind, *given_ in moves:
        change(place, kind, *given_)
        watch.look()
        anew.look()
        assert watch.routes == anew.routes
        assert dict(watch._routed) == dict(anew._routed)


def change(place: Place, kind: str, *given_: Any) -> None:
    """One step."""
    if kind in ("release", "retire", "canary", "unreadable"):
        number, *rest = given_
        name = f"adapter-{number}"
        found = dict(place.released.releases)
        last = found.pop(name, None)
        if kind == "release":
            pin = Pin(version=rest[0], digest=place.digest(number, rest[0]))
            found[name] = (
                last.with_version(pin, "moved") if last else place.release(number, rest[0])
            )
        elif kind == "canary" and last is not None:
            digest = place.digest(number, rest[0])
            share = Canary(version=rest[0], digest=digest, percent=50)
            found[name] = last.with_canary(share, "tried")
        unreadable = {name: "it is broken"} if kind == "unreadable" else {}
        place.released = Released(Shards(found), unreadable)
    elif kind == "manifest":
        number, version, there = given_
        digest = place.digest(number, version)
        if not there:
            place.manifests.pop(digest)
    elif kind == "beside":
        number, version = given_
        routes = {f"adapter-{number}": Routed(serving=place.digest(number, version))}
        place.gateways.reports = [Gateway(gateway="other", heartbeat=1e12, routes=routes)]
    else:
        changed = list(place.replicas.reports)
        which, *rest = given_
        changed[which] = changed_replica(place, changed[which], kind, *rest)
        place.replicas.reports = changed


def changed_replica(place: Place, one: Replica, kind: str, *given_: Any) -> Replica:
    if kind == "silent":
        return one.model_copy(update={"heartbeat": 0.0})
    if kind == "other base":
        return one.model_copy(update={"base": "sha256:" + "cd" * 32})
    if kind == "error":
        return one.model_copy(update={"error": given_[0]})
    name = f"adapter-{given_[0]}"
    held = one.adapters.named(name)
    if kind == "hold":
        number, version, state = given_
        held = (
            *(o for o in held if o.version != version),
            place.held(number, version, state),
        )
    else:
        held = ()
    changed = {"adapters": one.adapters.replaced({name: held}), "heartbeat": 1e12, "base": BASE}
    return one.model_copy(update=changed)
