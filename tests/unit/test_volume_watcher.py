"""The shared volume at a start and after damage; tests/integration has it with a real engine."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atelier.adapter.package import Package
from atelier.contract.replica import Replica
from atelier.contract.request import AdapterUse
from atelier.contract.sharded_file import ShardedFile
from atelier.contract.wanted import Wanted, WantedAdapter
from atelier.errors import Unavailable
from services.engine import failed_loads as module
from services.engine.result import UnknownAdapter
from services.engine.store import AdapterDamaged, AdapterStore
from services.engine.volume import VolumeWatcher
from tests.unit.test_engine_store import BASE, BYTES, count_opened, make_store, package

COUNT = 66  # adapters; of more than 64 the report is written in shards


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Home:
    """A volume with packages, and the engines that come and go on it."""

    def __init__(self, root: Path) -> None:
        self.volume = root / "volume"
        self.packages: dict[tuple[str, int], Package] = {}
        self.wanted: dict[str, tuple[WantedAdapter, ...]] = {}
        self.generation = 0

    def release(self, name: str, *versions: int) -> None:
        """Let the agent want these versions of an adapter, the last of them by default."""
        self.want(name, *versions)
        self.ask()

    def want(self, name: str, *versions: int) -> None:
        folder = self.volume / "packages"
        for version in versions:
            if (name, version) not in self.packages:
                self.packages[name, version] = package(folder, name, seed=version)
        self.wanted[name] = tuple(
            WantedAdapter(
                name=name,
                version=version,
                digest=self.packages[name, version].digest,
                path=f"packages/{self.packages[name, version].path.name}",
                default=version == versions[-1],
            )
            for version in versions
        )

    def ask(self) -> None:
        """Write the list."""
        self.generation += 1
        adapters = [one for found in self.wanted.values() for one in found]
        said = Wanted(adapters=adapters, generation=self.generation)
        ShardedFile(self.volume / "wanted.json", Wanted).write(said)

    def start(
        self, *, memory: int = 10**8, max_rank: int = 8
    ) -> tuple[VolumeWatcher, AdapterStore]:
        """A new engine's watcher, as a process that has just begun, and its adapters."""
        store, self.loaded = make_store(memory, max_rank=max_rank)
        base = SimpleNamespace(digest=BASE, vae_digest=None)
        engine: Any = SimpleNamespace(
            adapters=store, base=base, backend="torch", digest="sha256:e", alive=lambda: True
        )
        return VolumeWatcher(engine, self.volume, "r1"), store

    def report(self) -> Replica:
        return ShardedFile(self.volume / "loaded.json", Replica).read()

    def states(self, name: str) -> dict[int, str]:
        return {one.version: one.state for one in self.report().adapters.named(name)}

    def default(self, name: str) -> int | None:
        found = [one.version for one in self.report().adapters.named(name) if one.default]
        return found[0] if found else None


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture(scope="module")
def loaded_once(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Many adapters that an engine has loaded once."""
    home = Home(tmp_path_factory.mktemp("fleet"))
    for number in range(COUNT):
        home.want(f"adapter-{number}", 1)
    home.want("adapter-7", 1, 2)
    home.ask()
    watcher, store = home.start(memory=10 * BYTES)
    watcher.poll()
    assert len(home.report().adapters) == COUNT + 1
    assert store.nbytes <= 10 * BYTES
    return home


@pytest.fixture
def fleet(loaded_once: Home, home: Home) -> Home:
    """The same volume, for one test to change."""
    shutil.copytree(loaded_once.volume, home.volume)
    folder = home.volume / "packages"
    home.packages = {
        key: replace(one, path=folder / one.path.name) for key, one in loaded_once.packages.items()
    }
    home.wanted, home.generation = dict(loaded_once.wanted), loaded_once.generation
    return home


def test_a_restart_opens_no_package_and_holds_all(
    fleet: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = count_opened(monkeypatch)
    watcher, store = fleet.start()
    watcher.poll()
    assert opened == [] and store.nbytes == 0
    report = fleet.report()
    assert len(report.adapters) == COUNT + 1
    assert {one.state for one in report.adapters} == {"ready"}
    assert fleet.default("adapter-7") == 2 and store.default_of("adapter-7") == 2
    entry = store.acquire(AdapterUse("adapter-7"))
    assert fleet.loaded.wait(10) and store.ready(entry)
    assert opened == [fleet.packages["adapter-7", 2].path.name]
    store.close()


def test_a_restarted_engine_reports_before_it_has_read_what_it_had(fleet: Home) -> None:
    """The report is the head of the last one: its time does not grow with the adapters."""
    before = fleet.report()
    watcher, store = fleet.start()
    assert watcher.resumes
    reading, go_on = threading.Event(), threading.Event()
    read = watcher._wanted.read

    def slow() -> Wanted:
        reading.set()
        assert go_on.wait(30)
        return read()

    watcher._wanted.read = slow  # type: ignore[method-assign]
    watcher.start()
    try:
        assert reading.wait(30)
        wait_for(lambda: fleet.report().heartbeat > before.heartbeat)
        assert fleet.report().adapters == before.adapters
        with ThreadPoolExecutor(1) as threads:  # a request that comes early waits for its version
            early = threads.submit(store.acquire, AdapterUse("adapter-7"))
            time.sleep(0.2)
            assert not early.done()
            go_on.set()
            assert early.result(30).version == 2
    finally:
        go_on.set()
        watcher.stop()
        store.close()
    assert fleet.report().adapters == before.adapters


def test_an_engine_that_served_not_all_of_its_adapters_reports_after_it_has_tried(
    fleet: Home,
) -> None:
    for version in (1, 2):
        shutil.rmtree(fleet.packages["adapter-7", version].path)
    fleet.release("adapter-7", 1, 2, 3)
    shutil.rmtree(fleet.packages["adapter-7", 3].path)
    watcher, store = fleet.start()
    watcher.poll()
    assert set(fleet.states("adapter-7").values()) == {"failed"}
    again, _ = fleet.start()
    assert not again.resumes
    store.close()


def test_an_engine_of_another_rank_takes_nothing_over(fleet: Home) -> None:
    assert fleet.start()[0].resumes
    assert not fleet.start(max_rank=4)[0].resumes


def test_a_volume_without_a_list_ends_the_wait_of_requests(fleet: Home) -> None:
    (fleet.volume / "wanted.json").unlink()
    watcher, store = fleet.start()
    watcher.start()
    try:
        with pytest.raises(UnknownAdapter):
            store.acquire(AdapterUse("adapter-7"))
    finally:
        watcher.stop()
        store.close()


def test_what_is_new_is_loaded_before_it_is_said_to_be_ready(
    fleet: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.release("adapter-7", 1, 2, 3)
    opened = count_opened(monkeypatch)
    seen: list[dict[int, str]] = []
    watcher, store = fleet.start()
    real = store.add

    def add(package: Package, version: int | None = None) -> Any:
        seen.append(fleet.states("adapter-7"))
        return real(package, version)

    monkeypatch.setattr(store, "add", add)
    watcher.poll()
    assert opened == [fleet.packages["adapter-7", 3].path.name]
    assert seen == [{1: "ready", 2: "ready", 3: "loading"}]
    assert fleet.states("adapter-7") == {1: "ready", 2: "ready", 3: "ready"}


def test_an_engine_that_is_killed_as_it_loads_loses_nothing_that_was_proven(
    fleet: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.release("adapter-0", 1, 2)  # the first by name
    watcher, store = fleet.start()

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        watcher.poll()
    assert len(fleet.report().adapters) == COUNT + 2
    opened = count_opened(monkeypatch)
    watcher, _ = fleet.start()
    watcher.poll()
    assert opened == [fleet.packages["adapter-0", 2].path.name]


def test_an_engine_with_other_limits_believes_nothing(
    fleet: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = count_opened(monkeypatch)
    watcher, _ = fleet.start(max_rank=2)
    watcher.poll()
    assert len(opened) == COUNT + 1
    assert {one.state for one in fleet.report().adapters} == {"failed"}


def test_a_package_that_is_gone_is_not_believed(fleet: Home) -> None:
    shutil.rmtree(fleet.packages["adapter-7", 2].path)
    watcher, _ = fleet.start()
    watcher.poll()
    assert fleet.states("adapter-7") == {1: "ready", 2: "failed"}
    assert fleet.default("adapter-7") == 1


def test_a_wanted_change_costs_its_own_adapter(
    fleet: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher, _ = fleet.start()
    watcher.poll()
    obeyed: list[str] = []
    real = watcher._apply
    monkeypatch.setattr(watcher, "_apply", lambda name, *a: obeyed.append(name) or real(name, *a))
    before = shards(fleet.volume / "loaded")
    watcher.poll()
    watcher.write()
    assert obeyed == [] and shards(fleet.volume / "loaded") == before
    fleet.release("adapter-9", 1, 2)
    watcher.poll()
    assert obeyed == ["adapter-9"]
    assert len(shards(fleet.volume / "loaded").keys() - before.keys()) == 1


def shards(folder: Path) -> dict[str, int]:
    """The shards of a report; a file's inode is another one once it was written again."""
    return {file.name: file.stat().st_ino for file in folder.iterdir()}


def test_a_package_found_damaged_by_a_request_is_reported_and_comes_back(
    fleet: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes rot: neither size nor change time tell."""
    monkeypatch.setattr(module, "CHECK", 0.0)
    watcher, store = fleet.start()
    watcher.poll()
    path = fleet.packages["adapter-7", 2].path
    good = path.with_name("good")
    shutil.copytree(path, good)
    rot(path / "adapter.safetensors")
    entry = store.acquire(AdapterUse("adapter-7"))
    assert fleet.loaded.wait(10)
    with pytest.raises(AdapterDamaged):
        store.ready(entry)
    assert entry.weights is None
    watcher.poll()
    assert fleet.states("adapter-7") == {1: "ready", 2: "failed"}
    (failed,) = [o for o in fleet.report().adapters.named("adapter-7") if o.version == 2]
    assert "adapter.safetensors: has digest" in (failed.error or "")
    assert fleet.default("adapter-7") == 1  # calls that name no version go on
    with pytest.raises(UnknownAdapter):
        store.acquire(AdapterUse("adapter-7", 2))
    watcher.poll()
    assert fleet.states("adapter-7")[2] == "failed"  # it lies there as it was
    shutil.rmtree(path)
    good.rename(path)  # the agent fetches it again
    watcher.poll()
    assert fleet.states("adapter-7") == {1: "ready", 2: "ready"}
    assert fleet.default("adapter-7") == 2
    store.close()


def rot(file: Path) -> None:
    before = file.stat()
    data = file.read_bytes()
    with file.open("r+b") as rotten:
        rotten.write(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_what_failed_is_tried_again_later_and_later(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, attempts = [0.0], list[float]()
    clock = SimpleNamespace(monotonic=lambda: now[0], time=lambda: 1.0)
    monkeypatch.setattr(module, "time", clock)
    home.release("cat", 1)
    watcher, store = home.start()

    def full(*_: Any) -> Any:
        attempts.append(now[0])
        raise Unavailable("adapters: 1 bytes more do not fit")

    monkeypatch.setattr(store, "add", full)
    for second in range(100):
        now[0] = float(second)
        watcher.poll()
    assert attempts == [0.0, 5.0, 15.0, 35.0, 75.0]
    home.release("dog", 1)
    watcher.poll()
    assert len(attempts) == 6  # another adapter's news: only its own is tried


def test_a_list_that_cannot_be_read_is_said_once(home: Home) -> None:
    home.release("cat", 1)
    watcher, _ = home.start()
    watcher.poll()
    (home.volume / "wanted.json").write_text("{")
    watcher.poll()
    written = (home.volume / "loaded.json").stat().st_ino
    watcher.poll()
    assert (home.volume / "loaded.json").stat().st_ino == written
    report = home.report()
    assert report.error and report.error.startswith("wanted.json: ")
    assert home.states("cat") == {1: "ready"}


def test_a_name_that_is_not_the_packages_is_refused(home: Home) -> None:
    home.release("cat", 1)
    wanted = home.wanted["cat"][0].model_copy(update={"name": "dog"})
    home.wanted = {"dog": (wanted,)}
    ShardedFile(home.volume / "wanted.json", Wanted).write(Wanted(adapters=[wanted], generation=9))
    watcher, _ = home.start()
    watcher.poll()
    (failed,) = home.report().adapters.named("dog")
    assert failed.state == "failed" and "contains the adapter cat, not dog" in (failed.error or "")
