"""Obeys the agent: what `wanted.json` names is held, and `loaded.json` says how far that is.

The engine knows no network and no Kubernetes; a folder is all it shares with those who do. Whatever
goes wrong with one adapter, the engine goes on with the last good state and says so.

`ready` means that the version can be drawn with. A version that is new here is verified and loaded
before it is said to be ready. One that an earlier process of this volume said so of, with the same
base, precision, largest rank and program, is believed and loaded when somebody first asks for it:
so the time until a restarted engine is ready does not grow with the number of adapters. The price
is that damage done meanwhile is found by the first request, which fails; then the version is
reported as failed, and the agent fetches its package again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

import atelier
from atelier.adapter.package import Package
from atelier.contract.replica import HeldAdapter, Replica
from atelier.contract.sharded_file import ShardedFile
from atelier.contract.shards import Versions
from atelier.contract.wanted import Wanted, WantedAdapter
from atelier.errors import AtelierError
from atelier.files import digest_json
from atelier.validation import summary
from services.engine.engine import Engine

log = logging.getLogger(__name__)

POLL = 0.2  # seconds
HEARTBEAT = 1.0
RETRY, LONGEST_RETRY = 5.0, 60.0  # seconds until what failed is tried again, doubled each time
LOOK = 1.0  # seconds between two looks at whether a package that failed has been replaced
LETTERS = 500  # of an error that is reported

Identity = tuple[str, int]
State = Literal["ready", "loading", "failed"]


class Loaded(Replica):
    """The content of `loaded.json`."""

    terms: str = ""  # digest of what decides whether a package can be loaded


@dataclass(frozen=True)
class _Failure:
    """A version that could not be loaded, and when to try again (monotonic seconds)."""

    package: Path
    folder: tuple[int, int] | None  # the package's inode and change time
    wait: float
    again: float


class _Failures:
    """Versions that could not be loaded: each is tried again after a while, which doubles, or as
    soon as its package has been replaced."""

    def __init__(self) -> None:
        self._failures: dict[Identity, _Failure] = {}
        self._look_at = 0.0

    def add(self, identity: Identity, package: Path, folder: tuple[int, int] | None) -> None:
        """One more attempt has failed; `folder` is what the package was before it."""
        last = self._failures.get(identity)
        wait = min(2 * last.wait, LONGEST_RETRY) if last else RETRY
        again = time.monotonic() + wait
        self._failures[identity] = _Failure(package, folder, wait, again)

    def forget(self, identity: Identity) -> None:
        """It could be loaded, or is wanted no more."""
        self._failures.pop(identity, None)

    def due(self) -> set[str]:
        """The adapters of which a version is to be tried again."""
        now = time.monotonic()
        if not self._failures or now < self._look_at:
            return set()
        self._look_at = now + LOOK
        return {
            name
            for (name, _), failure in self._failures.items()
            if now >= failure.again or _folder(failure.package) != failure.folder
        }


class VolumeWatcher:
    """Keeps an engine's adapters as the shared volume wants them."""

    def __init__(self, engine: Engine, volume: Path, replica: str) -> None:
        self._engine = engine
        self._volume = Path(volume)
        self._replica = replica
        self._wanted = ShardedFile(self._volume / "wanted.json", Wanted)
        self._loaded = ShardedFile(self._volume / "loaded.json", Loaded)
        self._terms = digest_json({**engine.adapters.terms, "version": atelier.__version__})
        self._proven: Versions[HeldAdapter] | None = _proven(
            self._loaded, self._terms
        )  # until held
        self._obeyed: Versions[WantedAdapter] = Versions()  # the list that was last acted upon
        self._held: dict[str, dict[int, HeldAdapter]] = {}  # by name and version
        self._told: Versions[HeldAdapter] = Versions()
        self._untold: set[str] = set()  # adapters whose versions `_told` does not say yet
        self._failures = _Failures()
        self._generation = 0
        self._error: str | None = None
        self._began = False  # whether what an earlier process had ready is held
        self._lock = threading.Lock()  # of loaded.json, and of what it does not say yet
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Polls and reports in threads of its own; a load never holds up a heartbeat."""
        self._volume.mkdir(parents=True, exist_ok=True)
        for target, seconds in ((self.poll, POLL), (self._beat, HEARTBEAT)):
            thread = threading.Thread(target=self._every, args=(target, seconds), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Ends the threads; the last `loaded.json` stays and goes stale by its heartbeat."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def poll(self) -> None:
        """One look at `wanted.json`: load, switch defaults, remove."""
        self._report_damaged()
        try:
            wanted = self._wanted.read()
        except FileNotFoundError:
            self._began = True
            return
        except (OSError, ValueError) as error:
            self._began = True
            reason = summary(error) if isinstance(error, ValidationError) else error
            if self._error != f"wanted.json: {reason}":
                self._error = f"wanted.json: {reason}"
                self.write()
            return
        names = wanted.adapters.changed(self._obeyed) | self._failures.due()
        if names or wanted.generation != self._generation or self._error:
            self._error = None
            self._recall(wanted)
            for name in sorted(names):
                self._obey(name, wanted.adapters.named(name))
            self._obeyed, self._generation = wanted.adapters, wanted.generation
            self.write()

    def write(self) -> None:
        """Writes `loaded.json` as things stand."""
        with self._lock:
            changes = {name: self._versions(name) for name in self._untold}
            self._untold.clear()
            self._told = self._told.replaced(changes)
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
                    adapters=self._told,
                    terms=self._terms,
                )
            )

    def _obey(self, name: str, wanted: Iterable[WantedAdapter]) -> None:
        """Hold the versions that are wanted of one adapter, and no others."""
        for one in wanted:
            held = self._held.get(name, {}).get(one.version)
            if held is None or held.state != "ready" or held.digest != one.digest:
                self._load(one)
        kept = {one.version for one in wanted}
        for one in wanted:
            if one.default:
                kept |= self._switch(one)
        for version in [version for version in self._held.get(name, ()) if version not in kept]:
            self._failures.forget((name, version))
            if self._held[name].pop(version).state == "ready":
                self._engine.adapters.remove(name, version)
        if not self._held.get(name):
            self._held.pop(name, None)
        self._change(name)

    def _recall(self, wanted: Wanted) -> None:
        """Hold what an earlier process had ready, before anything is loaded: whatever is not held
        at the next `write` would not be believed after the next restart."""
        if self._proven is None:
            return
        self._told, self._proven = self._proven, None  # what is wanted later is new here
        folders: dict[str, set[str]] = {}  # what lies there
        for name, versions in self._told.sharded.items():
            asked = {(one.version, one.digest): one for one in wanted.adapters.named(name)}
            for held in versions:
                one = asked.get((held.version, held.digest)) if held.state == "ready" else None
                if one is None:
                    continue
                parent, _, package = one.path.rpartition("/")
                if parent not in folders:
                    folders[parent] = _names_in(self._volume / parent)
                if package in folders[parent]:
                    source = f"{self._volume}/{one.path}"
                    self._engine.adapters.know(name, one.version, one.digest, source)
                    self._held.setdefault(name, {})[one.version] = held
            self._change(name)
        self._began = True

    def _load(self, one: WantedAdapter) -> None:
        self._note(one, "loading")
        self.write()
        folder = _folder(self._volume / one.path)
        try:
            package = Package.open(self._volume / one.path, digest=one.digest)
            if package.manifest.name != one.name:
                raise AtelierError(f"{one.path}: holds {package.manifest.name}, not {one.name}")
            self._engine.adapters.add(package, one.version)
        except Exception as error:
            if not isinstance(error, AtelierError | OSError):
                log.exception("volume: %s@%s failed", one.name, one.version)
            self._failed(one, str(error), folder)
        else:
            self._failures.forget((one.name, one.version))
            self._note(one, "ready")
        self.write()

    def _failed(self, one: WantedAdapter, error: str, folder: tuple[int, int] | None) -> None:
        self._failures.add((one.name, one.version), self._volume / one.path, folder)
        self._note(one, "failed", error)

    def _report_damaged(self) -> None:
        """Report what a request found damaged, and hold it no more until it can be loaded."""
        for (name, version), error in self._engine.adapters.take_damaged().items():
            wanted = next((o for o in self._obeyed.named(name) if o.version == version), None)
            held = self._held.get(name, {}).get(version or 0)
            if wanted is None or held is None or held.state != "ready":
                continue
            log.error("volume: %s@%s: %s", name, version, error)
            self._engine.adapters.remove(name, version)
            self._failed(wanted, error, _folder(self._volume / wanted.path))
            self._change(name)
            self.write()

    def _switch(self, one: WantedAdapter) -> set[int]:
        """Makes a version the default; where it failed, returns the one that stays in its place."""
        if self._held[one.name][one.version].state == "ready":
            self._engine.adapters.default(one.name, one.version)
            return set()
        last = self._engine.adapters.default_of(one.name)
        return {last} if last is not None else set()

    def _note(self, one: WantedAdapter, state: State, error: str | None = None) -> None:
        self._held.setdefault(one.name, {})[one.version] = HeldAdapter(
            name=one.name,
            version=one.version,
            digest=one.digest,
            state=state,
            error=error[:LETTERS] if error else None,
        )
        self._change(one.name)

    def _change(self, name: str) -> None:
        """An adapter's versions have changed."""
        with self._lock:
            self._untold.add(name)

    def _versions(self, name: str) -> tuple[HeldAdapter, ...]:
        """One adapter's versions, as they are told."""
        default = self._engine.adapters.default_of(name)
        return tuple(
            held
            if held.default == (version == default)
            else held.model_copy(update={"default": version == default})
            for version, held in self._held.get(name, {}).copy().items()
        )

    def _beat(self) -> None:
        if self._began and self._engine.alive():  # a dead engine must not look alive
            self.write()

    def _every(self, act: Callable[[], None], seconds: float) -> None:
        while not self._stop.is_set():
            try:
                act()
            except Exception:
                log.exception("volume: cannot be followed; trying again")
            self._stop.wait(seconds)


def _proven(file: ShardedFile[Loaded], terms: str) -> Versions[HeldAdapter]:
    """What an earlier process of the volume said, where the same packages can be loaded now."""
    try:
        last = file.read()
    except (OSError, ValueError):
        return Versions()
    return last.adapters if last.terms == terms else Versions()


def _names_in(folder: Path) -> set[str]:
    """What lies in a folder; nothing where there is none."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()


def _folder(path: Path) -> tuple[int, int] | None:
    """What changes when a package is replaced; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
