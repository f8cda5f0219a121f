"""The adapters of an engine in host memory, by name and version.

The memory is limited. An adapter from a package may be dropped while no request uses it. The next
request for this adapter loads it again in the background and waits; other requests do not wait.

A version that an earlier process of the same volume has loaded is restored without reading its
package. The first request for the version reads the manifest and loads the weights. Each load
verifies the whole package against its digest. If the package is damaged, the requests that wait for
it fail, and `take_damaged` returns the version.
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
from services.engine.residency import Residency
from services.engine.weights import HostWeights, PackageLoader, rank_of

LOADERS = 2  # threads; a load reads and hashes files without the lock
RESTORE_SECONDS = 30.0  # longest wait of a request for the versions of an earlier process
FETCH_SECONDS = 5.0  # typical time until a damaged package has been fetched again

Identity = tuple[str, int | None]


class AdapterDamaged(AdapterRejected, Unavailable):
    """The package of an adapter was damaged after it had been loaded. It is fetched again."""


@dataclass(frozen=True)
class AdapterInfo:
    """The public state of one adapter version."""

    name: str
    version: int | None
    digest: str
    default: bool
    rank: int  # 0: its manifest has not been read yet
    users: int  # requests in flight
    resident: bool  # in host memory


@dataclass(eq=False)
class StoredAdapter:
    """One adapter version. Adding a version again creates a new entry with a new `uid`."""

    uid: int
    name: str
    version: int | None
    digest: str
    source: str | None  # folder of the package, from which it can be loaded again
    rank: int | None = None  # None: its manifest has not been read yet
    weights: HostWeights | None = None
    mask: int = 0  # `HostWeights.mask`, once loaded
    users: int = 0
    loading: bool = False
    error: AtelierError | None = None


class AdapterStore:
    """The adapters of one engine. Thread-safe."""

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
        self._complete = threading.Event()  # cleared while versions are restored
        self._complete.set()

    @property
    def terms(self) -> Mapping[str, object]:
        """The values that decide, for a given program version, whether a package can be loaded."""
        return self._loader.terms

    # For owners of the engine

    def add(self, package: Package, version: int | None = None) -> AdapterInfo:
        """Load a verified package as one more version of its adapter.

        The first version of an adapter becomes its default. Raises AdapterRejected if the package
        does not fit the base, or if the store has this version with another digest.
        """
        name = package.manifest.name
        with self._lock:
            held = self._entries.get(name, version)
            if held and version is not None:
                if held.digest == package.digest:
                    return self._info(held)
                raise AdapterRejected(
                    f"{name}@{version}: loaded with digest {held.digest}, but the package has "
                    f"{package.digest}; a version cannot change, so register a new version"
                )
        weights, source = self._loader.load(package), str(package.path)
        return self._hold(name, version, package.digest, weights, source)

    def restore(self, name: str, version: int, digest: str, source: str) -> None:
        """Add a package that was loaded before, under the same `terms`, without reading it.

        The first version of an adapter becomes its default.
        """
        with self._lock:
            self._put(StoredAdapter(next(self._uids), name, version, digest, source))

    def begin_restore(self) -> None:
        """Let requests with adapters wait until `end_restore`, for at most RESTORE_SECONDS."""
        self._complete.clear()

    def end_restore(self) -> None:
        """End the wait of `begin_restore`: all versions have been restored."""
        self._complete.set()

    def add_tensors(
        self, name: str, lora: Mapping[str, LoraWeights], version: int | None = None
    ) -> AdapterInfo:
        """Add weights without a package. They replace weights with the same name and version."""
        weights = self._loader.pack(lora, name)
        parts = {
            path: [sha256_bytes(np.ascontiguousarray(t).tobytes()) for t in (pair.A, pair.B)]
            + [str(pair.alpha)]
            for path, pair in lora.items()
        }
        return self._hold(name, version, digest_json(parts), weights, None)

    def remove(self, name: str, version: int | None = None) -> None:
        """Remove a version. Its memory is freed when no request uses it any more."""
        with self._lock:
            self._resident.drop(self._entries.remove(name, version))

    def default(self, name: str, version: int | None) -> None:
        """Make a version the default of its adapter. In-flight requests keep their version."""
        with self._lock:
            self._entries.set_default(name, version)

    def default_of(self, name: str) -> int | None:
        """Return the default version, or None if there is no default or it has no number."""
        with self._lock:
            return self._entries.default(name)

    def list(self) -> tuple[AdapterInfo, ...]:
        """Return all versions, by name and version."""
        with self._lock:
            entries = sorted(self._entries, key=lambda e: (e.name, e.version or -1))
            return tuple(self._info(entry) for entry in entries)

    def take_damaged(self) -> Mapping[Identity, str]:
        """Return the versions whose damage was detected since the last call, with the errors."""
        with self._lock:
            damaged, self._damaged = self._damaged, {}
            return damaged

    # For the engine

    def acquire(self, use: AdapterUse) -> StoredAdapter:
        """Return the entry for a request, which must `release` it. Start to load it if needed."""
        self._complete.wait(RESTORE_SECONDS)
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
        """End the use of an entry by a request."""
        with self._lock:
            entry.users -= 1

    def ready(self, entry: StoredAdapter) -> bool:
        """Return whether an entry is in host memory. If its load failed, raise the error."""
        if entry.error is not None:
            raise entry.error
        return entry.weights is not None

    def close(self) -> None:
        """End the loader threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    @property
    def nbytes(self) -> int:
        """Host memory in use, in bytes."""
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
        """Add an entry. It replaces an entry with the same name and version."""
        before = self._entries.put(entry)
        if before is not None:
            self._resident.drop(before)

    def _take_in(self, entry: StoredAdapter, weights: HostWeights) -> None:
        """Store the weights of an entry. Drop weights of idle entries that can be loaded again."""

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
                raise AdapterRejected(
                    f"{entry.name}: the weights were dropped and have no package; add them again"
                )
            weights = self._loader.open(Path(entry.source), entry.digest)
            with self._lock:
                self._take_in(entry, weights)
                if self._entries.get(entry.name, entry.version) is not entry:
                    self._resident.drop(entry)  # removed in the meantime
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
            f"adapter {entry.name}@{entry.version}: the package is damaged and is being fetched "
            f"again; try again later ({why})",
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
