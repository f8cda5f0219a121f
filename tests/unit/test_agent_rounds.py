"""The agent's rounds on a real volume, with a registry of folders; no server."""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from atelier.adapter.package import Package
from atelier.adapter.signature import sign
from atelier.adapter.signature_policy import SignatureMode, SignaturePolicy
from atelier.adapter.signers import SignerIdentity
from atelier.contract.replica import HeldAdapter, Loaded, Replica, ReplicaFolder
from atelier.contract.sharded_file import ShardedFile
from atelier.contract.wanted import Wanted
from atelier.data.names import hex_of
from atelier.data.release import Pin, Release, ReleaseFolder
from atelier.errors import Unavailable
from atelier.files import write_atomic
from atelier.stores.environment import LocalReleases
from atelier.stores.registry import VersionInfo
from services.agent.agent import Agent, ReplicaIdentity
from services.agent.fetcher import MAX_QUEUED, PackageFetcher
from services.agent.health import HealthServer, Pulse
from services.agent.packages import PackageShelf
from services.agent.plan import Named
from tests.signing import BASE, package, private_key, signer


class Clock:
    """A time that passes when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def until(condition, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.01)


def test_a_failed_fetch_is_tried_again_later_and_later() -> None:
    clock, attempts = Clock(), []

    def fetch(one: Named) -> None:
        attempts.append(clock.now)
        raise Unavailable("the registry is away")

    fetching = PackageFetcher(fetch, clock=clock)
    pin = Named("thor-cat", 1, f"sha256:{1:064x}")
    for second in range(16):
        clock.now = float(second)
        before = len(attempts)
        fetching.want([pin])
        if fetching._running:
            until(lambda: (fetching.collect(), not fetching._running)[1])
        assert len(attempts) - before <= 1
    assert attempts == [0.0, 1.0, 3.0, 7.0, 15.0]
    assert fetching.problems == {pin.digest: "the registry is away"}
    assert fetching.temporary == {pin.digest}
    fetching.want([])
    assert fetching.problems == {}
    fetching.close()


class Rig:
    """An agent with a registry of folders and an engine that the test plays."""

    def __init__(self, root: Path, trust: SignaturePolicy | None = None):
        self.trust = trust or SignaturePolicy()
        self.volume = root / "volume"
        self.registry = root / "registry"
        self.releases = ReleaseFolder(root / "releases")
        self.reports = ReplicaFolder(root / "replicas")
        self.away = False
        self.fetched: list[int] = []
        self.signed: dict[int, bytes] = {}  # by version, of one key
        self.looked_up: list[int] = []
        self.foreign: bytes | None = None  # another's, of any version
        self.agent = self.new_agent()
        self.engine()

    def new_agent(self) -> Agent:
        return Agent(
            identity=ReplicaIdentity("one"),
            volume=self.volume,
            releases=LocalReleases(self.releases),
            reports=self.reports,
            registry=lambda: self,
            policy=self.trust,
        )

    def version(self, name: str, version: int) -> VersionInfo:
        self.looked_up.append(version)
        return VersionInfo(name, version, "", "", {}, (), datetime.now(UTC))

    def download(self, info: VersionInfo, folder: Path) -> None:
        if self.away:
            raise Unavailable(f"fetch {info.label}: the registry is away")
        self.fetched.append(info.version)
        shutil.copytree(self.registry / str(info.version), folder)

    def signatures(self, info: VersionInfo) -> list[bytes]:
        if self.away:
            raise Unavailable(f"read {info.label}: the registry is away")
        others = [self.foreign] if self.foreign else []
        own = self.signed.get(info.version)
        return [*others, *([own] if own else [])]

    def publish(self, version: int, *, serve: bool = True) -> Package:
        made = package(self.registry / str(version), seed=version)
        pin = Pin(version=version, digest=made.digest)
        old = self.releases.get("thor-cat")
        new = old.with_version(pin, "promoted") if old else None
        first = Release(adapter="thor-cat", base=BASE, version=version, digest=made.digest)
        if serve:
            self.releases.put(new or first)
        return made

    def engine(self, *held: tuple[Package, int, str], default: int | None = None) -> None:
        """The engine says what it holds, and by which version it answers."""
        adapters = tuple(
            HeldAdapter.model_validate(
                {
                    "name": "thor-cat",
                    "version": version,
                    "digest": one.digest,
                    "state": state,
                    "default": version == default,
                }
            )
            for one, version, state in held
        )
        said = Loaded(
            replica="x",
            base=BASE,
            backend="torch",
            engine_digest="e",
            heartbeat=time.time(),
            generation=self.wanted().generation,
            settled=all(one.state == "ready" for one in adapters if one.default),
            adapters=adapters,
        )
        write_atomic(self.volume / "loaded.json", said.model_dump_json())

    def wanted(self) -> Wanted:
        try:
            return ShardedFile(self.volume / "wanted.json", Wanted).read()
        except FileNotFoundError:
            return Wanted()

    def report(self) -> Replica:
        return self.reports.list()["one"]

    def settle(self, condition) -> None:
        until(lambda: (self.agent.sync(), condition())[1])


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.agent.close()


def test_a_release_reaches_the_volume_verified_and_the_engine_is_asked(rig: Rig) -> None:
    made = rig.publish(1)
    rig.settle(lambda: rig.wanted().adapters)
    (only,) = rig.wanted().adapters
    assert (only.version, only.digest, only.default) == (1, made.digest, True)
    assert Package.open(rig.volume / only.path, digest=made.digest).digest == made.digest
    rig.engine((made, 1, "ready"))
    rig.agent.sync()
    assert rig.report().holds("thor-cat", made.digest).state == "ready"
    assert rig.report().error is None
    generation = rig.wanted().generation
    rig.agent.sync()
    assert rig.wanted().generation == generation  # nothing new, nothing written


def test_a_package_that_is_not_what_the_release_pins_is_never_visible(rig: Rig) -> None:
    good = rig.publish(1)
    rig.settle(lambda: rig.wanted().adapters)
    rig.engine((good, 1, "ready"))
    bad = rig.publish(2)
    weights = rig.registry / "2" / "adapter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    rig.settle(lambda: bad.digest in rig.agent._fetcher.problems)
    assert rig.wanted().default("thor-cat").version == 1
    assert sorted(path.name for path in (rig.volume / "packages").iterdir()) == [
        hex_of(good.digest)
    ]
    failed = rig.report().holds("thor-cat", bad.digest)
    assert (failed.state, "digest" in failed.error) == ("failed", True)
    told = "thor-cat@2 in the registry, adapter.safetensors: has digest"
    assert failed.error.startswith(told)


def test_the_registry_being_away_is_told_and_what_serves_goes_on(rig: Rig) -> None:
    good = rig.publish(1)
    rig.settle(lambda: rig.wanted().adapters)
    rig.engine((good, 1, "ready"))
    rig.away = True
    late = rig.publish(2)
    rig.settle(lambda: rig.report().error)
    assert rig.report().error == "fetch thor-cat@2: the registry is away"
    held = rig.report().holds("thor-cat", late.digest)
    assert (held.state, held.error) == ("loading", rig.report().error)  # it may still come
    assert rig.report().holds("thor-cat", good.digest).state == "ready"
    assert rig.wanted().default("thor-cat").version == 1
    rig.away = False
    rig.settle(lambda: len(rig.wanted().adapters) == 2)
    rig.agent.sync()
    assert rig.report().error is None


def test_a_package_damaged_on_the_volume_is_fetched_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.agent.packages.RESCAN_SECONDS", 0.0)
    made = rig.publish(1)
    rig.settle(lambda: rig.wanted().adapters)
    rig.engine((made, 1, "ready"))
    rig.away = True
    file = rig.volume / "packages" / hex_of(made.digest) / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    rig.settle(lambda: rig.report().error)
    assert "adapter.safetensors" in rig.report().error
    rig.away = False
    rig.settle(lambda: rig.fetched == [1, 1] and rig.report().error is None)
    assert Package.open(file.parent, digest=made.digest)


def test_a_broken_release_file_costs_only_its_own_adapter(rig: Rig) -> None:
    good = rig.publish(1)
    rig.settle(lambda: rig.wanted().adapters)
    rig.engine((good, 1, "ready"))
    was = rig.wanted().adapters
    (rig.releases.path / "thor-cat.json").write_text("{")
    rig.agent.sync()
    assert rig.wanted().adapters == was
    assert "thor-cat.json" in rig.report().error
    rig.agent.close()
    rig.agent = rig.new_agent()  # one that has never read it whole
    rig.agent.sync()
    assert rig.wanted().adapters == was


def test_what_a_killed_agent_left_half_done_is_swept_away(tmp_path: Path) -> None:
    shelf = PackageShelf(tmp_path / "packages", SignaturePolicy())
    (shelf.folder / ".0123.half").mkdir(parents=True)
    (shelf.folder / ("a" * 64)).mkdir()
    shelf.sweep()
    assert [path.name for path in shelf.folder.iterdir()] == ["a" * 64]
    good, bad = shelf.scan()
    assert (set(good), list(bad)) == (set(), ["sha256:" + "a" * 64])


def test_a_full_volume_is_told_serves_on_and_recovers(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = rig.publish(1)
    rig.settle(lambda: rig.wanted().adapters)
    rig.engine((good, 1, "ready"), default=1)
    rig.agent.sync()
    monkeypatch.setattr("services.agent.packages.RESERVED", 2**60)  # nothing has so much room
    bad = rig.publish(2)
    rig.settle(lambda: bad.digest in rig.agent._fetcher.problems)
    rig.agent.sync()
    assert "MiB left, too little for a package; free" in rig.report().error
    assert rig.wanted().default("thor-cat").version == 1 and rig.fetched == [1]
    assert rig.agent.ready
    monkeypatch.undo()
    rig.settle(lambda: len(rig.wanted().adapters) == 2)
    rig.agent.sync()
    assert rig.report().error is None


def test_an_engine_that_cannot_be_asked_is_told_and_asked_again(rig: Rig) -> None:
    one, two = rig.publish(1), rig.publish(2)
    rig.settle(lambda: len(rig.wanted().adapters) == 2)
    rig.engine((one, 1, "ready"), (two, 2, "ready"))
    rig.agent.sync()
    assert rig.wanted().default("thor-cat").version == 2
    rig.releases.put(rig.releases.get("thor-cat").rolled_back())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # EFBIG, as a full disk is ENOSPC
    try:
        rig.agent._reports = Told()
        rig.agent.sync()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    (told,) = rig.agent._reports.reports
    assert "wanted.json cannot be written to" in told.error
    assert rig.wanted().default("thor-cat").version == 2  # whole, as it was
    rig.agent.sync()
    assert rig.wanted().default("thor-cat").version == 1


class Told:
    """Reports that go to no disk, as a Lease does."""

    def __init__(self) -> None:
        self.reports: list[Replica] = []

    def put(self, report: Replica) -> None:
        self.reports.append(report)


def test_ready_is_once_everything_was_served_and_stays(rig: Rig) -> None:
    rig.agent.sync()
    assert rig.agent.ready  # nothing is released
    rig.agent.close()
    rig.away = True
    good = rig.publish(1)
    rig.agent = rig.new_agent()
    rig.settle(lambda: rig.agent._fetcher.problems)
    assert not rig.agent.ready  # a pod whose packages cannot be fetched
    rig.away = False
    rig.settle(lambda: rig.wanted().adapters)
    rig.agent.sync()
    assert not rig.agent.ready  # on the volume, but not in the engine
    rig.engine((good, 1, "ready"), default=1)
    rig.agent.sync()
    assert rig.agent.ready
    rig.away = True
    rig.publish(2)
    rig.settle(lambda: rig.report().error)
    assert rig.agent.ready  # the last good version serves


def test_probes_and_prometheus_are_answered(rig: Rig) -> None:
    pulse = Pulse()
    server = HealthServer(rig.agent, pulse, "127.0.0.1", 0)

    def ask(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5) as one:
                return one.status, one.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    try:
        assert ask("/healthz")[0] == 200 and ask("/nowhere")[0] == 404
        assert ask("/readyz") == (503, "the engine has not reported its adapters yet\n")
        rig.away = True
        made = rig.publish(1)
        rig.settle(lambda: rig.report().error)
        status, text = ask("/readyz")
        assert status == 503 and "thor-cat@1: fetch thor-cat@1: the registry is away" in text
        rig.away = False
        rig.settle(lambda: rig.wanted().adapters)
        rig.engine((made, 1, "ready"), default=1)
        rig.agent.sync()
        assert ask("/readyz") == (200, "ok\n")
        text = ask("/metrics")[1]
        assert 'atelier_agent_adapters{state="ready"} 1.0' in text
        told = f'adapter="thor-cat",digest="{made.digest}",version="1"'
        assert f"atelier_agent_default_info{{{told}}} 1.0" in text
        assert "atelier_agent_fetch_failures_total 1.0" in text
        assert "atelier_agent_releases_read_timestamp_seconds 1." in text
        stuck = socket.create_connection(("127.0.0.1", server.port))  # says nothing, ever
        assert ask("/healthz")[0] == 200
        stuck.close()
        pulse._last -= 60
        assert ask("/healthz") == (503, "the loop is stuck\n")
    finally:
        server.close()


KEY = private_key()


def enforcing(root: Path, policy: SignatureMode = "enforce") -> Rig:
    return Rig(root, SignaturePolicy(policy, (signer(KEY),)))


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Rig]:
    made = enforcing(tmp_path)
    yield made
    made.agent.close()


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("unsigned", "thor-cat@2: is not signed, and this environment serves only signed"),
        ("another key", "thor-cat: signed by key "),
        ("another package", "the package was altered after signing"),
        ("cut short", "cannot be read: it is truncated or damaged"),
    ],
)
def test_enforced_nothing_but_a_good_signature_reaches_the_volume(
    guarded: Rig, case: str, told: str
) -> None:
    good, bad = guarded.publish(1), guarded.publish(2, serve=False)
    guarded.signed[1] = sign(good, KEY)
    wrong = {
        "another key": sign(bad, private_key()),
        "another package": guarded.signed[1],
        "cut short": sign(bad, KEY)[:-100],
    }
    guarded.signed |= {2: wrong[case]} if case in wrong else {}
    guarded.settle(lambda: guarded.wanted().adapters)
    guarded.engine((good, 1, "ready"), default=1)
    guarded.releases.put(
        guarded.releases.get("thor-cat").with_version(Pin(version=2, digest=bad.digest), "promoted")
    )
    guarded.settle(lambda: bad.digest in guarded.agent._fetcher.problems)
    guarded.agent.sync()
    failed = guarded.report().holds("thor-cat", bad.digest)
    assert failed.state == "failed" and told in failed.error
    assert [one.version for one in guarded.wanted().adapters] == [1]
    assert not (guarded.volume / "packages" / hex_of(bad.digest)).exists()
    assert (2 in guarded.fetched) is (case in wrong)  # nothing large comes for nothing
    guarded.signed[2] = sign(bad, KEY)  # signed after all: the next attempt brings it
    guarded.settle(lambda: len(guarded.wanted().adapters) == 2)
    guarded.agent.sync()
    assert guarded.report().error is None


def test_warned_of_is_served_and_told(tmp_path: Path) -> None:
    rig = enforcing(tmp_path, "warn")
    made = rig.publish(1)
    rig.settle(lambda: rig.wanted().adapters)
    rig.engine((made, 1, "ready"), default=1)
    rig.agent.sync()
    assert rig.report().holds("thor-cat", made.digest).state == "ready"
    assert "thor-cat: is not signed" in rig.report().error
    assert "served anyway" in rig.report().error and rig.agent.ready
    rig.agent.close()


def test_a_restart_checks_signatures_again_without_the_registry(guarded: Rig) -> None:
    made = guarded.publish(1)
    guarded.signed[1], guarded.foreign = sign(made, KEY), sign(made, private_key())
    guarded.settle(lambda: guarded.wanted().adapters)
    guarded.engine((made, 1, "ready"), default=1)
    guarded.agent.close()
    guarded.away = True
    guarded.agent = guarded.new_agent()
    guarded.agent.sync()
    assert guarded.report().error is None and guarded.wanted().default("thor-cat").version == 1
    guarded.agent.close()
    guarded.trust = SignaturePolicy("enforce", (signer(private_key(), "new"),))
    guarded.agent = guarded.new_agent()
    guarded.agent.sync()
    assert guarded.wanted().adapters == ()  # it leaves the engine's memory as well
    assert "trusted are new (" in guarded.report().error
    assert list((guarded.volume / "packages").iterdir()) == []
    guarded.away = False
    guarded.signed.clear()
    guarded.foreign = None
    guarded.engine()
    guarded.settle(lambda: "is not signed" in (guarded.report().error or ""))


def test_a_signature_damaged_on_the_volume_is_fetched_again(
    guarded: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.agent.packages.RESCAN_SECONDS", 0.0)
    made = guarded.publish(1)
    guarded.signed[1] = sign(made, KEY)
    guarded.settle(lambda: guarded.wanted().adapters)
    beside = guarded.volume / "packages" / f"{hex_of(made.digest)}.sig"
    assert beside.read_bytes() == guarded.signed[1]
    beside.write_text("{}")
    guarded.settle(lambda: guarded.fetched == [1, 1] and guarded.report().error is None)
    assert beside.read_bytes() == guarded.signed[1]


def test_roots_that_are_away_cost_no_package_and_no_round(guarded: Rig) -> None:
    """What cannot be checked is not visible, and not thrown away; it serves on from memory."""
    made = guarded.publish(1)
    guarded.signed[1] = sign(made, KEY)
    guarded.settle(lambda: guarded.wanted().adapters)
    guarded.engine((made, 1, "ready"), default=1)
    guarded.agent.close()
    roots = SignerIdentity("me", "me@example.org", "https://idp", trust=b"{}")
    beside = guarded.volume / "packages" / f"{hex_of(made.digest)}.sig"
    keyless = json.loads(guarded.signed[1])
    keyless["verificationMaterial"] = {"certificate": {"rawBytes": ""}}
    beside.write_text(json.dumps(keyless))
    guarded.away, guarded.trust = True, SignaturePolicy("enforce", (roots,))
    guarded.agent = guarded.new_agent()
    guarded.agent.sync()
    assert "cannot be checked now" in guarded.report().error
    assert guarded.wanted().default("thor-cat").version == 1 and beside.exists()


def test_what_came_in_while_nobody_asked_leaves_when_somebody_does(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    made = rig.publish(1)
    rig.settle(lambda: rig.wanted().adapters)
    rig.engine((made, 1, "ready"), default=1)
    rig.agent.close()
    rig.trust = SignaturePolicy("enforce", (signer(KEY),))
    rig.agent = rig.new_agent()
    rig.agent.sync()
    assert rig.wanted().adapters == ()
    rig.signed[1] = sign(made, KEY)
    rig.settle(lambda: rig.wanted().adapters)
    assert rig.fetched == [1, 1]
    rig.agent.close()


def test_a_restart_verifies_no_package_that_an_earlier_process_has(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2, 3):
        rig.publish(version)
    rig.settle(lambda: len(rig.wanted().adapters) == 3)
    rig.agent.close()
    opened = count_opened(monkeypatch)
    rig.agent = rig.new_agent()
    rig.agent.sync()
    assert opened == [] and sorted(rig.fetched) == [1, 2, 3]
    assert len(rig.wanted().adapters) == 3


def count_opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that are opened as packages, byte for byte, from now on."""
    opened: list[str] = []
    real = Package.open.__func__

    def counted(cls, path: Path, *, digest: str | None = None) -> Package:
        opened.append(path.name)
        return real(cls, path, digest=digest)

    monkeypatch.setattr(Package, "open", classmethod(counted))
    return opened


def test_a_package_that_was_changed_while_no_agent_ran_is_found(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = rig.publish(1)
    rig.settle(lambda: rig.wanted().adapters)
    rig.engine((made, 1, "ready"), default=1)
    rig.agent.close()
    file = rig.volume / "packages" / hex_of(made.digest) / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    monkeypatch.setattr("services.agent.packages.RESCAN_SECONDS", 0.0)
    rig.agent = rig.new_agent()
    rig.settle(lambda: rig.fetched == [1, 1])
    rig.settle(lambda: rig.report().error is None)
    assert Package.open(file.parent, digest=made.digest)


def test_a_package_that_the_engine_found_damaged_is_verified_and_fetched_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that rot change no time and no size; whoever loads them notices."""
    made = rig.publish(1)
    rig.settle(lambda: rig.wanted().adapters)
    rig.engine((made, 1, "ready"), default=1)
    rig.agent.sync()
    file = rig.volume / "packages" / hex_of(made.digest) / "adapter.safetensors"
    before = file.stat()
    data = file.read_bytes()
    with file.open("r+b") as rotten:
        rotten.write(data[:-4] + b"\x00\x00\x80\x3f")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    rig.agent.sync()
    assert rig.fetched == [1]
    rig.engine((made, 1, "failed"))
    rig.settle(lambda: rig.fetched == [1, 1] and not rig.agent.snapshot.plan.missing)
    assert Package.open(file.parent, digest=made.digest)
    rig.engine((made, 1, "ready"), default=1)
    rig.agent.sync()
    assert rig.report().error is None
    opened = count_opened(monkeypatch)
    rig.engine((made, 1, "failed"))  # for another reason: the package is good
    rig.agent.sync()
    rig.agent.sync()
    assert len(opened) == 1 and rig.fetched == [1, 1]


def test_what_lies_on_the_volume_unverified_is_not_fetched(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a great many packages one scan has no time to verify all; the others do that beside it."""
    for version in (1, 2, 3):
        rig.publish(version)
    rig.settle(lambda: len(rig.wanted().adapters) == 3)
    rig.agent.close()
    shutil.rmtree(rig.volume / "verified")
    monkeypatch.setattr("services.agent.packages.VERIFY_SECONDS", -1.0)
    rig.agent = rig.new_agent()
    (rig.volume / "wanted.json").unlink()
    rig.settle(lambda: len(rig.wanted().adapters) == 3)
    assert sorted(rig.fetched) == [1, 2, 3]


def test_packages_are_looked_at_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.agent.packages.RESCAN_SECONDS", 0.0)
    monkeypatch.setattr("services.agent.packages.SCANNED", 2)
    shelf = PackageShelf(tmp_path / "packages", SignaturePolicy())
    made = [package(tmp_path / "registry" / str(seed), seed) for seed in range(5)]
    for one in made:
        named = Named("thor-cat", 1, one.digest)
        shelf.put(named, lambda folder, one=one: shutil.copytree(one.path, folder), ())
    for _ in range(2):  # the first scan lists what is there
        good, bad = shelf.scan()
        assert (len(good), bad) == (5, {})
    assert shelf.scan()[0] is good  # the same object
    shutil.rmtree(shelf.folder / hex_of(made[3].digest))
    for _ in range(4):
        good, bad = shelf.scan()
    assert (len(good), bad) == (4, {})


def test_a_restarted_replica_is_ready_before_it_knows_the_releases(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads two heads for that: the time does not grow with the number of adapters."""
    made = rig.publish(1)
    rig.settle(lambda: rig.wanted().adapters)
    rig.engine((made, 1, "ready"), default=1)
    rig.settle(lambda: rig.agent.ready)
    rig.agent.close()
    was = rig.wanted()

    def unavailable(self: LocalReleases) -> None:
        raise Unavailable("the API server is unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(LocalReleases, "read", unavailable)
        rig.agent = rig.new_agent()
        rig.agent.sync()
        assert rig.agent.ready and not rig.agent.snapshot.known
        assert rig.wanted() == was and "the API server is unavailable" in rig.report().error
    newer = rig.publish(2)
    rig.settle(lambda: rig.wanted().adapters.named("thor-cat")[0].digest == newer.digest)


def test_a_restarted_replica_with_an_unserved_adapter_is_not_ready(rig: Rig) -> None:
    made = rig.publish(1)
    rig.settle(lambda: rig.wanted().adapters)
    rig.engine((made, 1, "loading"), default=1)
    rig.agent.close()
    rig.agent = rig.new_agent()
    rig.agent.sync()
    assert not rig.agent.ready


def test_nothing_changes_before_the_engine_has_reported_its_base(rig: Rig) -> None:
    rig.publish(1)
    rig.settle(lambda: rig.wanted().adapters)
    was = rig.wanted()
    (rig.volume / "loaded.json").unlink()
    rig.publish(2)
    made = rig.agent.sync()
    assert (made.wanted, made.fetch, made.prune, rig.wanted()) == (was.adapters, (), (), was)


def test_a_removed_package_starts_no_scan_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each release removes one: with thousands of packages, a scan costs more than the release."""
    shelf = PackageShelf(tmp_path / "packages", SignaturePolicy())
    made = [package(tmp_path / "registry" / str(seed), seed) for seed in range(3)]
    for one in made:
        named = Named("thor-cat", 1, one.digest)
        shelf.put(named, lambda folder, one=one: shutil.copytree(one.path, folder), ())
    shelf.scan()
    checked: list[str] = []
    monkeypatch.setattr(shelf, "_check_again", lambda digest, bad: checked.append(digest))
    shelf.remove(made[0].digest)
    assert (set(shelf.scan()[0]), checked) == ({one.digest for one in made[1:]}, [])
    shelf.recheck(made[1].digest)
    shelf.scan()
    assert checked == [made[1].digest]


def test_a_fetch_looks_its_version_up_once(guarded: Rig) -> None:
    made = guarded.publish(1, serve=False)
    guarded.signed[1] = sign(made, KEY)
    guarded.publish(1)
    guarded.settle(lambda: guarded.wanted().adapters)
    assert (guarded.looked_up, guarded.fetched) == ([1], [1])


HANGING = """
import sys, threading
from services.agent.fetcher import PackageFetcher
from services.agent.plan import Named
begun = threading.Event()
def fetch(one):
    begun.set()
    threading.Event().wait()
fetching = PackageFetcher(fetch)
fetching.want([Named("thor-cat", 1, "sha256:" + "1" * 64)])
begun.wait()
fetching.close()
print("ended")
"""


def test_a_fetch_that_hangs_does_not_keep_a_process_from_ending() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "ended\n"


def test_the_newest_release_waits_for_few_fetches() -> None:
    attempts: list[str] = []
    ended = threading.Event()

    def fetch(one: Named) -> None:
        ended.wait()
        attempts.append(one.name)

    fetching = PackageFetcher(fetch)
    pins = [Named(f"adapter-{n}", 1, f"sha256:{n:064x}") for n in range(1000)]
    fetching.want(pins)
    newest = Named("newest", 1, "sha256:" + "f" * 64)
    ended.set()
    for _ in range(200):
        fetching.collect()
        fetching.want([newest, *pins])
        if "newest" in attempts:
            break
        time.sleep(0.01)
    assert attempts.index("newest") <= 2 * MAX_QUEUED
    fetching.close()
