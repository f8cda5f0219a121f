"""Measure the processor time of the control loops with many adapters: gateway, agent and engine.

    python -m bench.fleet
    python -m bench.fleet --adapters 1000 --seconds 10

There are ten replicas; each adapter has a release with one serving and two past versions. One
gateway, one agent and the volume watcher of one engine run as in their pods. They use a volume on
this machine, and an API server in this process that stores JSON and sends it to watches. Nine more
replicas send the same reports. The engine has no base: it registers adapters but generates no
images. The result for each loop is the processor time of its threads, including reading and writing
JSON, as a share of one core.
"""

import argparse
import json
import logging
import os
import platform
import shlex
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from atelier.adapter.package import MANIFEST, Package, write_package
from atelier.adapter.signature_policy import SignaturePolicy
from atelier.contract.replica import HeldAdapter, Loaded, Replica
from atelier.contract.sharded_file import ShardedFile
from atelier.contract.shards import Versions
from atelier.contract.wanted import Wanted, WantedAdapter
from atelier.data.manifest import BaseRef, Manifest
from atelier.data.names import hex_of
from atelier.data.release import Pin, Release
from atelier.platform.api import CONFIG_MAPS, LEASES, Listing, NotFound, Object, Query
from atelier.platform.informer import Listed
from atelier.platform.namespace import watching
from atelier.platform.pod import Pod
from atelier.platform.report_leases import ANNOTATION, ClusterReports
from atelier.stores.registry import VersionInfo
from services.agent.agent import Agent, ReplicaIdentity
from services.agent.packages import _stamp
from services.agent.plan import PACKAGES
from services.agent.verified import VerificationRecords
from services.engine.layout import layout_of
from services.engine.store import AdapterStore
from services.engine.volume import VolumeWatcher
from services.gateway.releases import ReleaseWatch

BASE = "sha256:" + "ba" * 32
VERSIONS = 3
GATEWAY_SECONDS, AGENT_SECONDS = 0.2, 0.25  # as in services.gateway.settings and services.agent
FILE = "sha256:" + "f1" * 32


class ApiServer:
    """An API server that stores ConfigMaps and Leases as JSON in memory, and supports watches."""

    namespace = "bench"

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, bytes]] = {CONFIG_MAPS: {}, LEASES: {}}
        self._events: dict[str, list[tuple[str, bytes]]] = {CONFIG_MAPS: [], LEASES: []}
        self._news = threading.Condition()

    def apply(self, path: str, body: Object) -> None:
        """Create or replace an object, and notify the watches."""
        name, data = body["metadata"]["name"], json.dumps(body).encode()
        with self._news:
            self.objects[path][name] = data
            self._events[path].append(("MODIFIED", data))
            self._news.notify_all()

    def delete(self, path: str, name: str, *, version: str | None = None) -> None:
        """Delete an object, if it exists, and notify the watches; `version` is ignored."""
        with self._news:
            data = self.objects[path].pop(name, None)
            if data is not None:
                self._events[path].append(("DELETED", data))
                self._news.notify_all()

    def get(self, path: str, name: str) -> Object:
        """Return an object. Raises KeyError if it does not exist."""
        body: Object = json.loads(self.objects[path][name])
        return body

    def listing(self, path: str, query: Query = ()) -> Listing:
        """Return all objects of a kind, ignoring `query`. Raises NotFound for an unknown kind."""
        if path not in self.objects:
            raise NotFound(path)
        with self._news:
            objects, version = list(self.objects[path].values()), len(self._events[path])
        return Listing([json.loads(data) for data in objects], str(version), datetime.now(UTC))

    def list(self, path: str, query: Query = ()) -> tuple[list[Object], str]:
        """Return all objects of a kind, and the version of the list."""
        listing = self.listing(path, query)
        return listing.objects, listing.version

    def watch(
        self, path: str, query: Query, version: str, *, seconds: int
    ) -> Iterator[tuple[str, Object]]:
        """Yield (type, object) for each event after `version`, for `seconds`."""
        events, at, end = self._events[path], int(version), time.monotonic() + seconds
        while time.monotonic() < end:
            with self._news:
                if len(events) == at:
                    self._news.wait(timeout=1.0)
            for kind, data in events[at:]:
                at += 1
                body = json.loads(data)
                body["metadata"]["resourceVersion"] = str(at)
                yield kind, body


class MeasuredLoop:
    """The threads of one control loop, and their processor time."""

    def __init__(self, name: str):
        self.name = name
        self.threads: set[threading.Thread] = set()
        self._ended = threading.Event()

    @contextmanager
    def owns(self) -> Iterator[None]:
        """Add the threads that are started in the block to the loop."""
        before = set(threading.enumerate())
        yield
        self.threads |= set(threading.enumerate()) - before

    def every(self, seconds: float, act: Callable[[], object]) -> None:
        """Call `act` every `seconds` in a new thread of the loop, until it is closed."""

        def run() -> None:
            while not self._ended.wait(seconds):
                act()

        thread = threading.Thread(target=run, daemon=True)
        self.threads.add(thread)
        thread.start()

    def close(self) -> None:
        """Stop the threads that `every` started."""
        self._ended.set()

    def processor_seconds(self) -> float:
        """Return the processor seconds of all threads that are still running."""
        clocks = [
            time.pthread_getcpuclockid(t.ident) for t in self.threads if t.is_alive() and t.ident
        ]
        return sum(time.clock_gettime(clock) for clock in clocks)


def shares(loops: list[MeasuredLoop], seconds: float) -> dict[str, float]:
    """Return the share of one core that each loop uses, measured for `seconds`."""
    began = time.monotonic()
    before = {loop.name: loop.processor_seconds() for loop in loops}
    time.sleep(seconds)
    taken = time.monotonic() - began
    return {loop.name: (loop.processor_seconds() - before[loop.name]) / taken for loop in loops}


class Block(nn.Module):
    """A model with one projection for adapters."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(8, 8)


@dataclass
class SimulatedFleet:
    """Generated adapters; the digest of a version depends only on adapter and version number."""

    folder: Path
    adapters: int
    releases: dict[str, Release] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)  # by digest

    @property
    def volume(self) -> Path:
        """The volume of the replica."""
        return self.folder / "volume"

    def prepare(self) -> None:
        """Write a volume in the state after a stop of agent and engine."""
        packages = self.volume / PACKAGES
        record = VerificationRecords(packages, SignaturePolicy())
        wanted: list[WantedAdapter] = []
        for number in range(self.adapters):
            name = f"adapter-with-a-name-{number}"
            manifests = [_manifest(name, version) for version in range(1, VERSIONS + 1)]
            release = Release(adapter=name, base=BASE, version=1, digest=manifests[0].digest)
            for version, manifest in enumerate(manifests, start=1):
                digest = manifest.digest
                self.manifests[digest] = manifest
                folder = packages / hex_of(digest)
                folder.mkdir(parents=True)
                (folder / MANIFEST).write_bytes(manifest.canonical())
                (folder / "adapter.safetensors").touch()
                if version > 1:
                    release = release.with_version(Pin(version=version, digest=digest), "promoted")
                wanted.append(
                    WantedAdapter(
                        name=name,
                        version=version,
                        digest=digest,
                        path=f"{PACKAGES}/{hex_of(digest)}",
                        default=version == VERSIONS,
                    )
                )
            wanted[-VERSIONS:] = reversed(wanted[-VERSIONS:])  # newest first, as the agent plans
            self.releases[name] = release
        record._begin()
        for adapter in wanted:
            path = self.volume / adapter.path
            text = {"files": _stamp(path, path.with_name(f"{path.name}.sig")), "warning": None}
            # faster than the record's own write, which flushes each file
            (record._folder / path.name).write_text(json.dumps(text))
        listed = Wanted(adapters=Versions(wanted), generation=1)
        ShardedFile(self.volume / "wanted.json", Wanted).write(listed)
        held = [
            HeldAdapter(
                name=adapter.name,
                version=adapter.version,
                digest=adapter.digest,
                state="ready",
                default=adapter.default,
            )
            for adapter in wanted
        ]
        watcher = VolumeWatcher(engine(), self.volume, "pod-0")
        loaded = Loaded(
            replica="pod-0",
            base=BASE,
            backend="torch",
            engine_digest="e",
            heartbeat=0.0,
            generation=listed.generation,
            settled=True,
            adapters=Versions(held),
            terms=watcher._terms,
        )
        ShardedFile(self.volume / "loaded.json", Loaded).write(loaded)

    def publish(self, server: ApiServer, name: str) -> None:
        """Write the ConfigMap of an adapter's release, as Helm does."""
        release = self.releases[name]
        pins = release.kept(VERSIONS)
        texts = {pin.digest: self.manifests[pin.digest].canonical().decode() for pin in pins}
        data = {"release.json": release.model_dump_json(), "manifests.json": json.dumps(texts)}
        labels = {"atelier.dev/adapter": name}
        metadata = {"name": f"release-{name}", "labels": labels}
        server.apply(CONFIG_MAPS, {"kind": "ConfigMap", "metadata": metadata, "data": data})


def _manifest(name: str, version: int) -> Manifest:
    return Manifest(
        name=name,
        base=BaseRef(id="bench", digest=BASE),
        rank=4,
        alpha=float(version),
        trigger=f"sks {name}",
        styles={"portrait": "{prompt}, close-up"},
        files={"adapter.safetensors": FILE},
    )


def engine() -> Any:
    """Return a stand-in for an engine with the attributes that a volume watcher uses."""
    parts = SimpleNamespace(unet=Block(), text_encoder=nn.Module(), text_encoder_2=nn.Module())
    store = AdapterStore(
        layout_of(parts), base_digest=BASE, max_rank=64, dtype=torch.float32, memory=2**30
    )
    return SimpleNamespace(
        adapters=store,
        base=SimpleNamespace(digest=BASE, vae_digest=None),
        backend="torch",
        digest="e",
        alive=lambda: True,
    )


@dataclass(frozen=True)
class FolderRegistry:
    """A registry whose packages are folders, by adapter and version."""

    folders: Mapping[tuple[str, int], Path]

    def version(self, name: str, version: int) -> VersionInfo:
        """Return the version without looking it up."""
        return VersionInfo(name, version, "", "", {}, (), datetime.now(UTC))

    def signatures(self, info: VersionInfo) -> tuple[bytes, ...]:
        """Return no signatures."""
        return ()

    def download(self, info: VersionInfo, into: Path) -> None:
        """Copy the folder."""
        shutil.copytree(self.folders[info.name, info.version], into)


class MeasuredReplica:
    """The measured replica: an agent and the volume watcher of an engine, on a fleet's volume."""

    def __init__(
        self, fleet: SimulatedFleet, server: Any, registry: Mapping[tuple[str, int], Path]
    ):
        self.agent_loop, self.engine_loop = MeasuredLoop("agent"), MeasuredLoop("engine's watcher")
        self.watcher = VolumeWatcher(engine(), fleet.volume, "pod-0")
        pod = Pod("pod-0", "bench", "uid", "10.0.0.1")
        self.environment = watching(server, pod, fleet.folder / "cluster")
        self.agent = Agent(
            identity=ReplicaIdentity(
                "pod-0", address="10.0.0.1:8080", grpc="10.0.0.1:9000", pool="stable"
            ),
            volume=fleet.volume,
            releases=self.environment.releases,
            reports=self.environment.replicas,
            registry=lambda: FolderRegistry(registry),
            policy=SignaturePolicy(),
        )

    def until_ready(self) -> None:
        """Start engine and agent as in the pod of a replica, and wait until the agent is ready."""
        with self.engine_loop.owns():
            if not self.watcher.resumes:
                self.watcher.poll()
            self.watcher.start()
        self.start()
        while not self.agent.ready:
            time.sleep(0.001)

    def until_followed(self) -> None:
        """Wait until the agent has read the releases and published a report."""
        while self.agent.snapshot is None or not self.agent.snapshot.known:
            time.sleep(0.001)

    def start(self) -> None:
        """Start the loop of the agent."""
        self.agent_loop.every(AGENT_SECONDS, self.agent.sync)

    def close(self) -> None:
        """Stop the agent and the watcher."""
        self.agent_loop.close()
        self.watcher.stop()
        self.agent.close()


def steady(fleet: SimulatedFleet, replicas: int, seconds: float) -> dict[str, Any]:
    """Measure the shares of the loops without new releases, and with one release per second.

    The result also has the sizes of the reports, in bytes.
    """
    server: Any = ApiServer()
    for name in fleet.releases:
        fleet.publish(server, name)
    registry: dict[tuple[str, int], Path] = {}
    new = [_new_version(fleet, number, registry) for number in range(int(seconds))]
    replica = MeasuredReplica(fleet, server, registry)
    replica.until_ready()
    replica.until_followed()
    others = MeasuredLoop("others")
    for number in range(1, replicas):
        pod = Pod(f"pod-{number}", "bench", f"uid-{number}", "10.0.0.2")
        reports = ClusterReports(Replica, "replica", Listed(server, LEASES), server, pod)
        others.every(0.5, _OtherReplica(replica.agent, reports, pod.name).report)
    gateway_loop = MeasuredLoop("gateway")
    place = watching(server, Pod("gateway-0", "bench", "uid-g", "10.0.0.3"), fleet.folder / "g")
    watch = ReleaseWatch(place, poll=GATEWAY_SECONDS, name="gateway-0")
    with gateway_loop.owns():
        watch.look()
    gateway_loop.every(GATEWAY_SECONDS, watch.look)
    _wait(lambda: len(watch.replicas) == replicas and _all_serve(fleet, watch), 300)
    time.sleep(5.0)
    loops = [gateway_loop, replica.agent_loop, replica.engine_loop]
    results: dict[str, Any] = {"steady": shares(loops, seconds)}
    releasing = threading.Thread(target=_release, args=(fleet, server, new), daemon=True)
    releasing.start()
    results["one release a second"] = shares(loops, seconds)
    releasing.join()
    _wait(lambda: _all_serve(fleet, watch), 120)
    results["report"] = report_sizes(server, "replica-pod-0")
    results["gateway's report"] = report_sizes(server, "gateway-gateway-0")
    for loop in (gateway_loop, others):
        loop.close()
    replica.close()
    return results


@dataclass
class _OtherReplica:
    """A simulated replica that reports the same adapters as the measured one."""

    agent: Agent
    reports: ClusterReports[Replica]
    name: str

    def report(self) -> None:
        """Send the last report of the measured replica under the name of this one."""
        report = self.agent.snapshot.report if self.agent.snapshot else None
        if report is not None:
            self.reports.put(report.model_copy(update={"replica": self.name}))


def _new_version(
    fleet: SimulatedFleet, number: int, registry: dict[tuple[str, int], Path]
) -> Manifest:
    """Write a package that an agent can fetch, verify and load; return its manifest."""
    name = f"adapter-with-a-name-{number}"
    random = np.random.default_rng(number)
    tensors = {
        f"unet.to_q.{part}.weight": random.standard_normal(shape).astype(np.float32)
        for part, shape in (("lora_A", (4, 8)), ("lora_B", (8, 4)))
    }
    path = fleet.folder / "registry" / name
    base = BaseRef(id="bench", digest=BASE)
    package = write_package(path, tensors, name=name, base=base, alpha=4.0)
    registry[name, VERSIONS + 1] = path
    fleet.manifests[package.digest] = package.manifest
    return package.manifest


def _release(fleet: SimulatedFleet, server: ApiServer, new: list[Manifest]) -> None:
    for manifest in new:
        pin = Pin(version=VERSIONS + 1, digest=manifest.digest)
        fleet.releases[manifest.name] = fleet.releases[manifest.name].with_version(pin, "promoted")
        fleet.publish(server, manifest.name)
        time.sleep(1.0)


def _all_serve(fleet: SimulatedFleet, watch: ReleaseWatch) -> bool:
    """Return whether the gateway routes every adapter to the version of its release."""
    routes = watch.routes
    return all(
        name in routes and (s := routes[name].serving) is not None and s.digest == release.digest
        for name, release in fleet.releases.items()
    )


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(
                f"the fleet did not serve every release within {seconds:.0f} s; use fewer "
                "--adapters"
            )
        time.sleep(0.2)


def report_sizes(server: ApiServer, name: str) -> dict[str, int]:
    """Return the number of Leases of a report, and the bytes in their annotations."""
    head = f"atelier-{name}"
    texts = {
        lease: len(json.loads(data)["metadata"]["annotations"][ANNOTATION])
        for lease, data in server.objects[LEASES].items()
        if lease == head or lease.startswith(f"{head}.")
    }
    return {
        "leases": len(texts),
        "heartbeat_bytes": texts[head],
        "largest_bytes": max(texts.values()),
        "total_bytes": sum(texts.values()),
    }


def restart(fleet: SimulatedFleet) -> dict[str, float]:
    """Measure the start of a replica: seconds until it is ready, and opened packages."""
    server: Any = ApiServer()
    for name in fleet.releases:
        fleet.publish(server, name)
    with counted_packages() as opened:
        began, processor = time.monotonic(), time.process_time()
        replica = MeasuredReplica(fleet, server, {})
        replica.until_ready()
        ready = time.monotonic() - began
        replica.until_followed()
        processor_seconds = time.process_time() - processor
    replica.close()
    return {
        "seconds": ready,
        "processor_seconds": processor_seconds,
        "packages_opened": len(opened),
    }


@contextmanager
def counted_packages() -> Iterator[list[Path]]:
    """Yield a list to which the path of each package that is fully opened is added."""
    opened: list[Path] = []
    real: Any = Package.__dict__["open"]

    def counted(cls: type[Package], path: Path, *, digest: str | None = None) -> Package:
        opened.append(path)
        package: Package = real.__func__(cls, path, digest=digest)
        return package

    patched: Any = Package
    patched.open = classmethod(counted)
    try:
        yield opened
    finally:
        patched.open = real


def main() -> None:
    """Measure, print tables, and write JSON."""
    logging.disable(logging.WARNING)
    options = argparse.ArgumentParser(prog="bench.fleet", description=__doc__.splitlines()[0])
    options.add_argument("--adapters", type=int, default=10_000)
    options.add_argument("--replicas", type=int, default=10)
    options.add_argument("--seconds", type=float, default=15.0, help="duration of a measurement")
    options.add_argument("--output", type=Path, default=Path("build/bench/fleet.json"))
    chosen = options.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{chosen.adapters} adapters in {VERSIONS} versions, {chosen.replicas} replicas\n")
    print("restart of a replica on its volume, without imports and the base:")
    results: dict[str, Any] = {"restart": {}}
    with tempfile.TemporaryDirectory() as aside:
        print(f"{'adapters':>9} {'to ready s':>11} {'processor s':>12} {'packages opened':>16}")
        for count in (chosen.adapters // 100, chosen.adapters // 10, chosen.adapters):
            fleet = SimulatedFleet(Path(aside) / str(count), count)
            fleet.prepare()
            taken = restart(fleet)
            results["restart"][count] = taken
            print(
                f"{count:>9} {taken['seconds']:11.2f} {taken['processor_seconds']:12.2f} "
                f"{taken['packages_opened']:>16.0f}",
                flush=True,
            )
        results |= steady(fleet, chosen.replicas, chosen.seconds)
    print(f"\n{'share of a core':>20} {'steady':>8} {'one release a second':>21}")
    for name, share in results["steady"].items():
        print(f"{name:>20} {share:8.2%} {results['one release a second'][name]:21.2%}")
    print(f"\n{'a report':>20} {'Leases':>8} {'heartbeat':>10} {'largest':>9} {'together':>10}")
    for name in ("report", "gateway's report"):
        sizes = results[name].values()
        print(f"{name:>20} {'{:>8} {:>10} {:>9} {:>10}'.format(*sizes)}")
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nagain: python -m bench.fleet {shlex.join(sys.argv[1:])}")


if __name__ == "__main__":
    main()
