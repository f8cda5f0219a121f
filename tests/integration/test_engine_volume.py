"""The shared volume: what the agent wants is held, and what cannot be is said."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from atelier.adapter.package import Package
from atelier.contract.replica import Replica
from services.engine import AdapterUse, Base, Engine, EngineSettings, VolumeWatcher, load_base


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> Base:
    return load_base(tiny_model)


@pytest.fixture
def engine(base: Base) -> Iterator[Engine]:
    engine = Engine(base, EngineSettings(max_rank=8))
    yield engine
    engine.close()


@pytest.fixture
def watcher(engine: Engine, tmp_path: Path) -> Iterator[VolumeWatcher]:
    watcher = VolumeWatcher(engine, tmp_path, "r1")
    watcher.start()
    yield watcher
    watcher.stop()


def want(volume: Path, generation: int, default: int, *packages: Package, **changes: str) -> None:
    """Versions count from 1 in the order given."""
    adapters = [
        {
            "name": "cat",
            "version": version,
            "digest": package.digest,
            "path": str(package.path),
            "default": version == default,
            **changes,
        }
        for version, package in enumerate(packages, start=1)
    ]
    aside = volume / "wanted.new"
    aside.write_text(json.dumps({"adapters": adapters, "generation": generation}))
    aside.rename(volume / "wanted.json")


def loaded(volume: Path, generation: int, seconds: float = 30.0) -> Replica:
    """What the engine says once it has come to a generation."""
    return _until(volume, lambda report: report.generation == generation, seconds)


def _until(volume: Path, done: Callable[[Replica], bool], seconds: float = 30.0) -> Replica:
    end = time.monotonic() + seconds
    report = None
    while time.monotonic() < end:
        if (volume / "loaded.json").exists():
            report = Replica.model_validate_json((volume / "loaded.json").read_bytes())
            if done(report):
                return report
        time.sleep(0.02)
    raise AssertionError(f"not reached; last: {report}")


def default_of(engine: Engine) -> int | None:
    return next((info.version for info in engine.adapters.list() if info.default), None)


def test_wanted_is_loaded_switched_and_removed(
    engine: Engine, watcher: VolumeWatcher, cats: list[Package], tmp_path: Path
) -> None:
    want(tmp_path, 1, 1, cats[0])
    report = loaded(tmp_path, 1)
    assert (report.replica, report.base, report.engine_digest) == (
        "r1",
        engine.base.digest,
        engine.digest,
    )
    assert [(h.version, h.digest, h.state) for h in report.adapters] == [
        (1, cats[0].digest, "ready")
    ]
    held = engine.adapters.acquire(AdapterUse("cat"))

    want(tmp_path, 2, 2, *cats)
    report = loaded(tmp_path, 2)
    assert [h.state for h in report.adapters] == ["ready"] * 3
    assert [h.version for h in report.adapters if h.default] == [2] == [default_of(engine)]
    assert held.version == 1

    want(tmp_path, 3, 2, *cats[:2])
    assert len(loaded(tmp_path, 3).adapters) == 2
    assert [info.version for info in engine.adapters.list()] == [1, 2]


def test_a_bad_package_is_reported_and_the_last_good_default_stays(
    engine: Engine, watcher: VolumeWatcher, cats: list[Package], tmp_path: Path
) -> None:
    want(tmp_path, 1, 1, cats[0])
    loaded(tmp_path, 1)
    bad = {
        "adapters": [
            {
                "name": "cat",
                "version": 2,
                "digest": cats[1].digest,
                "path": str(cats[2].path),  # another package than the digest says
                "default": True,
            }
        ],
        "generation": 2,
    }
    (tmp_path / "wanted.json").write_text(json.dumps(bad))
    report = loaded(tmp_path, 2)
    states = {held.version: held.state for held in report.adapters}
    assert states == {1: "ready", 2: "failed"}
    (failed,) = [held for held in report.adapters if held.version == 2]
    assert failed.error is not None and cats[2].digest in failed.error
    assert default_of(engine) == 1  # though nobody wants version 1 any more

    want(tmp_path, 3, 2, cats[0], cats[1])
    loaded(tmp_path, 3)
    assert default_of(engine) == 2


def test_a_wanted_list_that_is_no_json_changes_nothing(
    engine: Engine, watcher: VolumeWatcher, cats: list[Package], tmp_path: Path
) -> None:
    want(tmp_path, 1, 1, cats[0])
    loaded(tmp_path, 1)
    (tmp_path / "wanted.json").write_text('{"adapters": [')
    report = _until(tmp_path, lambda r: r.error is not None)
    assert "wanted.json" in (report.error or "")
    assert [held.state for held in report.adapters] == ["ready"]
    assert default_of(engine) == 1


def test_a_change_is_obeyed_soon_and_the_heart_beats(
    engine: Engine, watcher: VolumeWatcher, cats: list[Package], tmp_path: Path
) -> None:
    first = _until(tmp_path, lambda r: True)
    assert _until(tmp_path, lambda r: r.heartbeat > first.heartbeat, seconds=10).live()
    began = time.monotonic()
    want(tmp_path, 1, 1, cats[0])
    loaded(tmp_path, 1)
    # 0.3 s to notice; the rest is for verifying and loading on a busy machine.
    assert time.monotonic() - began < 5


def test_a_dead_engine_does_not_look_alive(base: Base, cats: list[Package], tmp_path: Path) -> None:
    engine = Engine(base)
    watcher = VolumeWatcher(engine, tmp_path, "r1")
    watcher.start()
    _until(tmp_path, lambda r: True)
    engine.close()
    time.sleep(1.5)
    last = _until(tmp_path, lambda r: True).heartbeat
    time.sleep(1.5)
    assert _until(tmp_path, lambda r: True).heartbeat == last
    watcher.stop()
