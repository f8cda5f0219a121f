"""The adapters an engine holds, by name and version: the host tier between disk and bank.

Memory is bounded. An adapter that came from a package may be dropped while nobody uses it; the next
request for it starts the load again, in the background, and waits without holding up the others.

A version that an earlier process of the same volume verified and loaded is only known at first: its
manifest is read and its weights are loaded when somebody asks for it, so a start does not grow with
the number of adapters. Each load checks the whole package against its digest. One that is damaged
meanwhile fails the requests that wait for it, and `take_damaged` tells which those were.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from atelier.adapter.low_rank import LoraWeights
from atelier.adapter.package import Package
from atelier.contract.request import AdapterUse
from atelier.errors import AdapterRejected, AtelierError, Unavailable
from atelier.files import digest_json, sha256_bytes
from services.engine.catalog import Catalog
from services.engine.layout import Layout
from services.engine.loading import PackageLoader, rank_of
from services.engine.residency import Residency
from services.engine.weights import HostWeights

LOADERS = 2  # threads; a load waits for the disk and hashes, and holds no lock
FETCH_SECONDS = 5.0  # until a damaged package has been fetched anew, about

Identity = tuple[str, int | None]


class AdapterDamaged(AdapterRejected, Unavailable):
    """An adapter whose package was good and cannot be loaded any more; it is fetched anew."""


@dataclass(frozen=True)
class AdapterInfo:
    """One held adapter, as others may see it."""

    name: str
    version: int | None
    digest: str
    default: bool
    rank: int  # 0: its manifest was not read yet
    users: int  # requests in flight
    resident: bool  # in host memory


@dataclass(eq=False)
class StoredAdapter:
    """One adapter version. Its identity never changes hands: a new add makes a new entry."""

    uid: int
    name: str
    version: int | None
    digest: str
    source: str | None  # the package's folder, to load from again
    rank: int | None = None  # None: its manifest was not read yet
    weights: HostWeights | None = None
    mask: int = 0  # of the weights, once loaded
    users: int = 0
    loading: bool = False
    error: AtelierError | None = None


class AdapterStore:
    """Thread-safe: watchers and trainers add, clients resolve, the engine's thread reads."""

    def __init__(
        self,
        layout: Layout,
        *,
        base_digest: str,
        max_rank: int,
        dtype: torch.dtype,
        memory: int,
        pin: bool = False,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._loader = PackageLoader(layout, base_digest, max_rank, dtype, pin)
        self._on_ready = on_ready
        self._lock = threading.RLock()
        self._entries: Catalog[StoredAdapter] = Catalog()
        self._resident: Residency[StoredAdapter] = Residency(memory)  # bytes
        self._damaged: dict[Identity, str] = {}
        self._uids = itertools.count(1)
        self._threads = ThreadPoolExecutor(LOADERS, thread_name_prefix="adapter-loader")

    @property
    def terms(self) -> Mapping[str, object]:
        """What decides, beside the program, whether a package can be held."""
        return self._loader.terms

    # What others may do

    def add(self, package: Package, version: int | None = None) -> AdapterInfo:
        """Holds a verified package beside whatever is held of that name.

        The first version of a name becomes its default. AdapterRejected where the package does not
        fit the base, or where that version is held with other content.
        """
        name = package.manifest.name
        with self._lock:
            held = self._entries.get(name, version)
            if held and version is not None:
                if held.digest == package.digest:
                    return self._info(held)
                raise AdapterRejected(
                    f"{name}@{version}: held as {held.digest}, now offered as {package.digest}; "
                    "a version never changes its content: register a new one"
                )
        weights, source = self._loader.load(package), str(package.path)
        return self._hold(name, version, package.digest, weights, source)

    def know(self, name: str, version: int, digest: str, source: str) -> None:
        """Holds a package by its digest, unread: one that was added before, with the same `terms`.

        The first version of a name becomes its default.
        """
        with self._lock:
            self._put(StoredAdapter(next(self._uids), name, version, digest, source))

    def add_tensors(
        self, name: str, lora: Mapping[str, LoraWeights], version: int | None = None
    ) -> AdapterInfo:
        """Holds weights that are in no package (yet), replacing those of the same name."""
        weights = self._loader.pack(lora, name)
        parts = {
            path: [sha256_bytes(np.ascontiguousarray(t).tobytes()) for t in (pair.A, pair.B)]
            + [str(pair.alpha)]
            for path, pair in lora.items()
        }
        return self._hold(name, version, digest_json(parts), weights, None)

    def remove(self, name: str, version: int | None = None) -> None:
        """Out of sight at once; its memory goes when the last request that holds it is done."""
        with self._lock:
            self._resident.drop(self._entries.remove(name, version))

    def default(self, name: str, version: int | None) -> None:
        """From now on, requests without a version get this one; those in flight keep theirs."""
        with self._lock:
            self._entries.set_default(name, version)

    def default_of(self, name: str) -> int | None:
        """The version that requests without one get; None where there is none or it has none."""
        with self._lock:
            return self._entries.default(name)

    def list(self) -> tuple[AdapterInfo, ...]:
        """Everything held, by name and version."""
        with self._lock:
            entries = sorted(self._entries, key=lambda e: (e.name, e.version or -1))
            return tuple(self._info(entry) for entry in entries)

    def take_damaged(self) -> Mapping[Identity, str]:
        """The versions that could not be loaded any more since the last call, and why."""
        with self._lock:
            damaged, self._damaged = self._damaged, {}
            return damaged

    # What the engine does

    def acquire(self, use: AdapterUse) -> StoredAdapter:
        """The entry that a request is to keep until `release`; starts its load where needed."""
        with self._lock:
            entry = self._entries.find(use.name, use.version)
            if entry.rank is None and entry.source is not None:
                try:
                    entry.rank = rank_of(Path(entry.source), entry.digest)
                except AdapterRejected as error:
                    raise self._found_damaged(entry, str(error)) from error
            entry.users += 1
            self._resident.touch(entry)
            if entry.weights is None and not entry.loading:
                entry.loading, entry.error = True, None
                self._threads.submit(self._reload, entry)
            return entry

    def release(self, entry: StoredAdapter) -> None:
        """One request less."""
        with self._lock:
            entry.users -= 1

    def ready(self, entry: StoredAdapter) -> bool:
        """Whether an entry is in host memory; raises the reason where it cannot be."""
        if entry.error is not None:
            raise entry.error
        return entry.weights is not None

    def close(self) -> None:
        """Ends the loader."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    @property
    def nbytes(self) -> int:
        """Host memory in use."""
        return self._resident.used

    def _hold(
        self, name: str, version: int | None, digest: str, weights: HostWeights, source: str | None
    ) -> AdapterInfo:
        entry = StoredAdapter(next(self._uids), name, version, digest, source)
        with self._lock:
            self._take_in(entry, weights)
            self._put(entry)
            return self._info(entry)

    def _put(self, entry: StoredAdapter) -> None:
        """Holds an entry in the place of any other of its name and version."""
        before = self._entries.put(entry)
        if before is not None:
            self._resident.drop(before)

    def _take_in(self, entry: StoredAdapter, weights: HostWeights) -> None:
        """Holds an entry's weights, in place of idle ones that can be loaded again."""

        def droppable(other: StoredAdapter) -> bool:
            return other.source is not None and not other.users

        for other in self._resident.room_for(weights.nbytes, droppable):
            other.weights = None
            self._resident.drop(other)
        entry.weights, entry.rank, entry.mask = weights, weights.rank, weights.mask
        self._resident.add(entry, weights.nbytes)

    def _reload(self, entry: StoredAdapter) -> None:
        try:
            if entry.source is None:
                raise AdapterRejected(f"{entry.name}: dropped and has no package to load from")
            weights = self._loader.open(Path(entry.source), entry.digest)
            with self._lock:
                self._take_in(entry, weights)
                if self._entries.get(entry.name, entry.version) is not entry:
                    self._resident.drop(entry)  # removed meanwhile
        except Unavailable as error:
            entry.error = error
        except AdapterRejected as error:
            entry.error = self._found_damaged(entry, str(error))
        except Exception as error:
            why = f"{entry.source}: cannot be loaded: {error}"
            entry.error = self._found_damaged(entry, why)
        finally:
            entry.loading = False
            self._on_ready()

    def _found_damaged(self, entry: StoredAdapter, why: str) -> AdapterDamaged:
        with self._lock:
            if self._entries.get(entry.name, entry.version) is entry:
                self._damaged[entry.name, entry.version] = why
        return AdapterDamaged(
            f"adapter {entry.name}@{entry.version}: its package here is damaged and is fetched "
            f"again: {why}",
            retry_after=FETCH_SECONDS,
        )

    def _info(self, entry: StoredAdapter) -> AdapterInfo:
        return AdapterInfo(
            name=entry.name,
            version=entry.version,
            digest=entry.digest,
            default=self._entries.default(entry.name) == entry.version,
            rank=entry.rank or 0,
            users=entry.users,
            resident=entry.weights is not None,
        )
