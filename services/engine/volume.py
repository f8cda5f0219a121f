"""Obeys the agent: what `wanted.json` names is held, and `loaded.json` says how far that is.

The engine knows no network and no Kubernetes; a folder is all it shares with those who do. Whatever
goes wrong with one adapter, the engine goes on with the last good state and says so.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from atelier.adapter.package import Package
from atelier.contract.replica import HeldAdapter, Replica
from atelier.data.names import Digest
from atelier.errors import AtelierError
from atelier.files import write_atomic
from atelier.validation import summary
from services.engine.engine import Engine

log = logging.getLogger(__name__)

POLL = 0.2  # seconds
HEARTBEAT = 1.0
RETRY = 5.0  # an adapter that failed is tried again without being asked


class Wanted(BaseModel):
    """One adapter version that the engine is to hold."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    version: int
    digest: Digest
    path: str  # of the package; relative ones are within the volume
    default: bool = False


class WantedList(BaseModel):
    """The content of `wanted.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    adapters: tuple[Wanted, ...] = ()
    generation: int = 0


class VolumeWatcher:
    """Keeps an engine's adapters as the shared volume wants them."""

    def __init__(self, engine: Engine, volume: Path, replica: str) -> None:
        self._engine = engine
        self._volume = Path(volume)
        self._replica = replica
        self._held: dict[tuple[str, int], HeldAdapter] = {}
        self._obeyed: bytes | None = None  # the wanted.json that was last acted upon
        self._generation = 0
        self._error: str | None = None
        self._retry_at = 0.0
        self._lock = threading.Lock()  # of loaded.json
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
        try:
            data = (self._volume / "wanted.json").read_bytes()
        except FileNotFoundError:
            return
        if data == self._obeyed and time.monotonic() < self._retry_at:
            return
        try:
            wanted = WantedList.model_validate_json(data)
        except ValidationError as error:
            self._error = f"wanted.json: {summary(error)}"
        else:
            self._error = None
            self._obey(wanted)
        failed = any(held.state == "failed" for held in self._held.values())
        self._retry_at = time.monotonic() + RETRY if failed else float("inf")
        self._obeyed = data
        self.write()

    def write(self) -> None:
        """Writes `loaded.json` as things stand."""
        answering = {
            (info.name, info.version) for info in self._engine.adapters.list() if info.default
        }
        adapters = tuple(
            held.model_copy(update={"default": identity in answering})
            for identity, held in self._held.copy().items()
        )
        with self._lock:
            write_atomic(
                self._volume / "loaded.json",
                Replica(
                    replica=self._replica,
                    pid=os.getpid(),
                    base=self._engine.base.digest,
                    vae=self._engine.base.vae_digest,
                    backend=self._engine.backend,
                    engine_digest=self._engine.digest,
                    generation=self._generation,
                    heartbeat=time.time(),
                    error=self._error,
                    adapters=adapters,
                ).model_dump_json(indent=2),
            )

    def _obey(self, wanted: WantedList) -> None:
        for one in wanted.adapters:
            held = self._held.get((one.name, one.version))
            if held is None or held.state != "ready" or held.digest != one.digest:
                self._load(one)
        kept = {(one.name, one.version) for one in wanted.adapters}
        for one in wanted.adapters:
            if one.default:
                kept |= self._switch(one)
        for identity in [identity for identity in self._held if identity not in kept]:
            if self._held.pop(identity).state == "ready":
                self._engine.adapters.remove(*identity)
        self._generation = wanted.generation

    def _load(self, one: Wanted) -> None:
        identity = (one.name, one.version)
        self._note(one, "loading")
        self.write()
        try:
            package = Package.open(self._volume / one.path, digest=one.digest)
            if package.manifest.name != one.name:
                raise AtelierError(f"{one.path}: holds {package.manifest.name}, not {one.name}")
            self._engine.adapters.add(package, one.version)
        except Exception as error:
            if not isinstance(error, AtelierError | OSError):
                log.exception("volume: %s@%s failed", *identity)
            self._note(one, "failed", str(error))
        else:
            self._note(one, "ready")
        self.write()

    def _switch(self, one: Wanted) -> set[tuple[str, int]]:
        """Makes a version the default; where it failed, returns the one that stays in its place."""
        if self._held[one.name, one.version].state == "ready":
            self._engine.adapters.default(one.name, one.version)
            return set()
        return {
            (info.name, info.version)
            for info in self._engine.adapters.list()
            if info.name == one.name and info.default and info.version is not None
        }

    def _note(self, one: Wanted, state: str, error: str | None = None) -> None:
        self._held[one.name, one.version] = HeldAdapter.model_validate(
            {
                "name": one.name,
                "version": one.version,
                "digest": one.digest,
                "state": state,
                "error": error,
            }
        )

    def _beat(self) -> None:
        if self._engine.alive():  # a dead engine must not look alive
            self.write()

    def _every(self, act: Callable[[], None], seconds: float) -> None:
        while not self._stop.is_set():
            try:
                act()
            except Exception:
                log.exception("volume: cannot be followed; trying again")
            self._stop.wait(seconds)
