"""Load the adapter versions that `wanted.json` lists, and report their states in `loaded.json`.

The engine uses no network and no Kubernetes. It exchanges data with the agent through a folder. If
one adapter fails, the engine keeps the last valid state and reports the error.

`ready` means that the engine can generate images with the version. A new version is verified and
loaded before it is reported as ready. The exception is a version that an earlier process of this
volume reported as ready with the same base, precision, largest rank and program version: the engine
reports it as ready without opening its package, so that a restart opens no package. The first
request for the version loads it. If the package was damaged in the meantime, this request fails,
the version is reported as failed, and the agent fetches the package again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

import atelier
from atelier.adapter.package import Package
from atelier.contract.replica import HeldAdapter, Loaded
from atelier.contract.sharded_file import ShardedFile
from atelier.contract.shards import Versions
from atelier.contract.wanted import Wanted, WantedAdapter
from atelier.errors import AtelierError
from atelier.files import digest_json
from atelier.validation import summary
from services.engine.engine import Engine
from services.engine.failed_loads import FailedLoads, package_state

log = logging.getLogger(__name__)

POLL = 0.2  # seconds
HEARTBEAT = 1.0  # seconds
MAX_CHARACTERS = 500  # maximum length of an error in the report

State = Literal["ready", "loading", "failed"]


class VolumeWatcher:
    """Keep the adapters of an engine equal to `wanted.json` on the shared volume."""

    def __init__(self, engine: Engine, volume: Path, replica: str) -> None:
        self._engine = engine
        self._volume = Path(volume)
        self._replica = replica
        self._wanted = ShardedFile(self._volume / "wanted.json", Wanted)
        self._loaded = ShardedFile(self._volume / "loaded.json", Loaded)
        self._terms = digest_json({**engine.adapters.terms, "version": atelier.__version__})
        self._earlier_head = self._resumable()
        self._earlier: Versions[HeldAdapter] | None = None  # of an earlier process; None: not read
        self._applied: Versions[WantedAdapter] = Versions()  # the last applied list
        self._held: dict[str, dict[int, HeldAdapter]] = {}  # by name and version
        self._reported: Versions[HeldAdapter] = Versions()
        self._unreported: set[str] = set()  # adapters whose change is not in `_reported` yet
        self._unserved: set[str] = set()  # adapters in `_reported` without a ready default
        self._failures = FailedLoads()
        self._generation = 0
        self._error: str | None = None
        self._began = False  # whether the versions of an earlier process have been taken over
        self._restored = False  # whether `write` may replace the report of an earlier process
        self._lock = threading.Lock()  # protects loaded.json and _unreported
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def resumes(self) -> bool:
        """Whether all versions that an earlier process applied can be used without opening them.

        The watcher then reports them from `start` on, and restores them in the background.
        """
        return self._earlier_head is not None

    def start(self) -> None:
        """Poll and report in two threads, so that loading does not delay a heartbeat."""
        self._volume.mkdir(parents=True, exist_ok=True)
        if self.resumes and not self._restored:
            self._engine.adapters.begin_restore()
        for target, seconds in ((self.poll, POLL), (self._beat, HEARTBEAT)):
            thread = threading.Thread(target=self._every, args=(target, seconds), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End the threads. `loaded.json` stays and expires, because its heartbeat gets old."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def poll(self) -> None:
        """Read `wanted.json` once: load versions, switch defaults, remove versions."""
        if self._earlier is None:
            self._earlier = _earlier(self._loaded, self._terms)
        self._report_damaged()
        try:
            wanted = self._wanted.read()
        except FileNotFoundError:
            self._end_restore()
            return
        except (OSError, ValueError) as error:
            self._end_restore()
            reason = summary(error) if isinstance(error, ValidationError) else error
            if self._error != f"wanted.json: {reason}":
                self._error = f"wanted.json: {reason}"
                self.write()
            return
        self._restore(wanted)
        names = wanted.adapters.changed(self._applied) | self._failures.due()
        if names or wanted.generation != self._generation or self._error:
            self._error = None
            for name in sorted(names):
                self._apply(name, wanted.adapters.named(name))
            self._applied, self._generation = wanted.adapters, wanted.generation
            self.write()

    def write(self) -> None:
        """Write `loaded.json` with the current state."""
        with self._lock:
            changes = {name: self._versions(name) for name in self._unreported}
            self._unreported.clear()
            self._unserved -= changes.keys()
            self._unserved |= {
                name
                for name, versions in changes.items()
                if versions and not any(v.default and v.state == "ready" for v in versions)
            }
            self._reported = self._reported.replaced(changes)
            self._loaded.write(
                Loaded(
                    replica=self._replica,
                    pid=os.getpid(),
                    base=self._engine.base.digest,
                    vae=self._engine.base.vae_digest,
                    backend=self._engine.backend,
                    engine_digest=self._engine.digest,
                    generation=self._generation,
                    heartbeat=time.time(),
                    error=self._error,
                    adapters=self._reported,
                    terms=self._terms,
                    settled=not self._unserved,
                )
            )

    def _apply(self, name: str, wanted: Iterable[WantedAdapter]) -> None:
        """Load the wanted versions of one adapter, and remove all other versions."""
        for version in wanted:
            held = self._held.get(name, {}).get(version.version)
            if held is None or held.state != "ready" or held.digest != version.digest:
                self._load(version)
        kept = {version.version for version in wanted}
        for version in wanted:
            if version.default:
                kept |= self._switch(version)
        for number in [number for number in self._held.get(name, ()) if number not in kept]:
            self._failures.forget((name, number))
            if self._held[name].pop(number).state == "ready":
                self._engine.adapters.remove(name, number)
        if not self._held.get(name):
            self._held.pop(name, None)
        self._change(name)

    def _restore(self, wanted: Wanted) -> None:
        """Restore the versions that an earlier process had ready, without opening their packages.

        This must happen before any load: if the next `write` omitted a version, its package would
        be opened again after the next restart.
        """
        if self._began or self._earlier is None:
            return
        self._began, self._reported, self._earlier = True, self._earlier, Versions()
        packages: dict[str, set[str]] = {}  # names by folder
        for name, versions in self._reported.sharded.items():
            listed = {(v.version, v.digest): v for v in wanted.adapters.named(name)}
            for held in versions:
                version = listed.get((held.version, held.digest))
                if version is None or held.state != "ready":
                    continue
                parent, _, package = version.path.rpartition("/")
                if parent not in packages:
                    packages[parent] = _names_in(self._volume / parent)
                if package in packages[parent]:
                    source = f"{self._volume}/{version.path}"
                    self._engine.adapters.restore(name, held.version, held.digest, source)
                    self._held.setdefault(name, {})[held.version] = held
                    if held.default:
                        self._engine.adapters.default(name, held.version)
            self._change(name)
        self._end_restore()

    def _end_restore(self) -> None:
        self._restored = True
        self._engine.adapters.end_restore()

    def _resumable(self) -> Loaded | None:
        """Return the head of an earlier report if all its adapters can be restored, else None."""
        try:
            head = self._loaded.head()
        except (OSError, ValueError):
            return None
        return head if head.terms == self._terms and head.settled else None

    def _renew(self, head: Loaded) -> None:
        """Report the versions of an earlier process as this process's, without reading them."""
        with self._lock:
            if not self._restored:
                process = {
                    "replica": self._replica,
                    "pid": os.getpid(),
                    "backend": self._engine.backend,
                    "engine_digest": self._engine.digest,
                    "heartbeat": time.time(),
                }
                self._loaded.write_head(head.model_copy(update=process))

    def _load(self, version: WantedAdapter) -> None:
        self._record(version, "loading")
        self.write()
        path = self._volume / version.path
        folder = package_state(path)
        try:
            package = Package.open(path, digest=version.digest)
            if package.manifest.name != version.name:
                raise AtelierError(
                    f"{version.path}: contains the adapter {package.manifest.name}, not "
                    f"{version.name}; register a package of {version.name}"
                )
            self._engine.adapters.add(package, version.version)
        except Exception as error:
            if not isinstance(error, AtelierError | OSError):
                log.exception("volume: %s@%s failed", version.name, version.version)
            self._record_failure(version, str(error), folder)
        else:
            self._failures.forget((version.name, version.version))
            self._record(version, "ready")
        self.write()

    def _record_failure(
        self, version: WantedAdapter, error: str, folder: tuple[int, int] | None
    ) -> None:
        path = self._volume / version.path
        self._failures.add((version.name, version.version), path, folder)
        self._record(version, "failed", error)

    def _report_damaged(self) -> None:
        """Report the versions that a request found damaged, and remove them from the engine."""
        for (name, number), error in self._engine.adapters.take_damaged().items():
            wanted = next((v for v in self._applied.named(name) if v.version == number), None)
            held = self._held.get(name, {}).get(number or 0)
            if wanted is None or held is None or held.state != "ready":
                continue
            log.error("volume: %s@%s: %s", name, number, error)
            self._engine.adapters.remove(name, number)
            self._record_failure(wanted, error, package_state(self._volume / wanted.path))
            self.write()

    def _switch(self, version: WantedAdapter) -> set[int]:
        """Make a version the default. If it is not ready, return the old default, which stays."""
        if self._held[version.name][version.version].state == "ready":
            self._engine.adapters.default(version.name, version.version)
            return set()
        last = self._engine.adapters.default_of(version.name)
        return {last} if last is not None else set()

    def _record(self, version: WantedAdapter, state: State, error: str | None = None) -> None:
        self._held.setdefault(version.name, {})[version.version] = HeldAdapter(
            name=version.name,
            version=version.version,
            digest=version.digest,
            state=state,
            error=error[:MAX_CHARACTERS] if error else None,
        )
        self._change(version.name)

    def _change(self, name: str) -> None:
        """Mark an adapter for the next report."""
        with self._lock:
            self._unreported.add(name)

    def _versions(self, name: str) -> tuple[HeldAdapter, ...]:
        """Return the versions of one adapter for the report."""
        default = self._engine.adapters.default_of(name)
        return tuple(
            held
            if held.default == (version == default)
            else held.model_copy(update={"default": version == default})
            for version, held in self._held.get(name, {}).copy().items()
        )

    def _beat(self) -> None:
        if not self._engine.alive():  # an engine that has ended must not report
            return
        if self._restored:
            self.write()
        elif self._earlier_head is not None:
            self._renew(self._earlier_head)

    def _every(self, act: Callable[[], None], seconds: float) -> None:
        while not self._stop.is_set():
            try:
                act()
            except Exception:
                log.exception("volume: polling or reporting failed; trying again")
            self._stop.wait(seconds)


def _earlier(file: ShardedFile[Loaded], terms: str) -> Versions[HeldAdapter]:
    """Return the versions that an earlier process reported, if its `terms` were the same."""
    try:
        last = file.read()
    except (OSError, ValueError):
        return Versions()
    return last.adapters if last.terms == terms else Versions()


def _names_in(folder: Path) -> set[str]:
    """Return the names in a folder, or an empty set if the folder cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()
