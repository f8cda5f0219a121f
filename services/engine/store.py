"""The adapters an engine holds, by name and version: the host tier between disk and bank.

Memory is bounded. An adapter that came from a package may be dropped while nobody uses it; the next
request for it starts the load again, in the background, and waits without holding up the others.
"""

from __future__ import annotations

import difflib
import itertools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from atelier.adapter.low_rank import LoraWeights
from atelier.adapter.package import Package
from atelier.errors import AdapterRejected, AtelierError, Unavailable
from atelier.files import digest_json, sha256_bytes
from services.engine.layout import Layout
from services.engine.request import AdapterUse, UnknownAdapter
from services.engine.weights import HostWeights, pack

NAMED = 8  # names spelt out in an error

Identity = tuple[str, int | None]


@dataclass(frozen=True)
class AdapterInfo:
    """One held adapter, as others may see it."""

    name: str
    version: int | None
    digest: str
    default: bool
    rank: int
    users: int  # requests in flight
    resident: bool  # in host memory


@dataclass(eq=False)
class StoredAdapter:
    """One adapter version. Its identity never changes hands: a new add makes a new entry."""

    uid: int
    name: str
    version: int | None
    digest: str
    rank: int
    source: Path | None  # the package's folder, to load from again
    weights: HostWeights | None
    mask: int
    users: int = 0
    loading: bool = False
    error: AtelierError | None = None
    last_used: int = field(default=0)


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
        self._layout = layout
        self._base_digest = base_digest
        self._max_rank, self._dtype, self._pin = max_rank, dtype, pin
        self._memory = memory  # bytes
        self._on_ready = on_ready
        self._lock = threading.RLock()
        self._entries: dict[Identity, StoredAdapter] = {}
        self._defaults: dict[str, int | None] = {}
        self._uids = itertools.count(1)
        self._clock = itertools.count(1)
        self._loader: ThreadPoolExecutor | None = None

    # What others may do

    def add(self, package: Package, version: int | None = None) -> AdapterInfo:
        """Holds a verified package beside whatever is held of that name.

        The first version of a name becomes its default. Raises AdapterRejected where the package
        does not fit the base, or where that version is held with other content.
        """
        name = package.manifest.name
        with self._lock:
            held = self._entries.get((name, version))
            if held and version is not None:
                if held.digest == package.digest:
                    return self._info(held)
                raise AdapterRejected(
                    f"{name}@{version}: held as {held.digest}, now offered as {package.digest}; "
                    "a version never changes its content: register a new one"
                )
        weights = self._load(package)
        return self._hold(name, version, package.digest, weights, package.path)

    def add_tensors(
        self, name: str, lora: Mapping[str, LoraWeights], version: int | None = None
    ) -> AdapterInfo:
        """Holds weights that are in no package (yet), replacing those of the same name."""
        weights = self._pack(lora, name)
        parts = {
            path: [sha256_bytes(np.ascontiguousarray(t).tobytes()) for t in (pair.A, pair.B)]
            + [str(pair.alpha)]
            for path, pair in lora.items()
        }
        return self._hold(name, version, digest_json(parts), weights, None)

    def remove(self, name: str, version: int | None = None) -> None:
        """Out of sight at once; its memory goes when the last request that holds it is done."""
        with self._lock:
            if (name, version) not in self._entries:
                raise UnknownAdapter(self._unknown(name, version))
            del self._entries[name, version]
            if self._defaults.get(name, version) == version:
                rest = [v for n, v in self._entries if n == name]
                self._defaults.pop(name, None)
                if rest:
                    self._defaults[name] = max(rest, key=lambda v: -1 if v is None else v)

    def default(self, name: str, version: int | None) -> None:
        """From now on, requests without a version get this one; those in flight keep theirs."""
        with self._lock:
            if (name, version) not in self._entries:
                raise UnknownAdapter(self._unknown(name, version))
            self._defaults[name] = version

    def list(self) -> tuple[AdapterInfo, ...]:
        """Everything held, by name and version."""
        with self._lock:
            entries = sorted(self._entries.values(), key=lambda e: (e.name, e.version or -1))
            return tuple(self._info(entry) for entry in entries)

    # What the engine does

    def acquire(self, use: AdapterUse) -> StoredAdapter:
        """The entry that a request is to keep until `release`; starts its load where needed."""
        with self._lock:
            version = use.version if use.version is not None else self._defaults.get(use.name)
            entry = self._entries.get((use.name, version))
            if entry is None:
                raise UnknownAdapter(self._unknown(use.name, use.version))
            entry.users += 1
            entry.last_used = next(self._clock)
            if entry.weights is None and not entry.loading:
                entry.loading, entry.error = True, None
                self._executor().submit(self._reload, entry)
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
        with self._lock:
            if self._loader is not None:
                self._loader.shutdown(wait=True, cancel_futures=True)

    @property
    def nbytes(self) -> int:
        """Host memory in use."""
        with self._lock:
            return sum(e.weights.nbytes for e in self._entries.values() if e.weights)

    def _load(self, package: Package) -> HostWeights:
        manifest = package.manifest
        if manifest.kind != "lora":
            raise AdapterRejected(
                f"{package.path}: kind {manifest.kind} cannot be served yet; only lora can"
            )
        if manifest.base.digest != self._base_digest:
            raise AdapterRejected(
                f"{package.path}: made for base {manifest.base.id} ({manifest.base.digest}), this "
                f"engine serves {self._base_digest}; train it on this base"
            )
        return self._pack(package.lora(), f"{package.path}")

    def _pack(self, lora: Mapping[str, LoraWeights], place: str) -> HostWeights:
        return pack(
            self._layout,
            lora,
            max_rank=self._max_rank,
            dtype=self._dtype,
            pin=self._pin,
            place=place,
        )

    def _hold(
        self, name: str, version: int | None, digest: str, weights: HostWeights, source: Path | None
    ) -> AdapterInfo:
        with self._lock:
            self._make_room(weights.nbytes)
            entry = StoredAdapter(
                uid=next(self._uids),
                name=name,
                version=version,
                digest=digest,
                rank=weights.rank,
                source=source,
                weights=weights,
                mask=weights.mask,
                last_used=next(self._clock),
            )
            self._entries[name, version] = entry
            self._defaults.setdefault(name, version)
            return self._info(entry)

    def _make_room(self, wanted: int) -> None:
        """Drops idle adapters that can be loaded again, the longest unused first."""
        idle = [e for e in self._entries.values() if e.weights and e.source and not e.users]
        for entry in sorted(idle, key=lambda e: e.last_used):
            if self.nbytes + wanted <= self._memory:
                return
            entry.weights = None
        if self.nbytes + wanted > self._memory:
            raise Unavailable(
                f"adapters: {wanted} bytes more do not fit host_memory={self._memory}; "
                "remove adapters or raise host_memory"
            )

    def _reload(self, entry: StoredAdapter) -> None:
        try:
            if entry.source is None:
                raise AdapterRejected(f"{entry.name}: dropped and has no package to load from")
            weights = self._load(Package.open(entry.source, digest=entry.digest))
            with self._lock:
                self._make_room(weights.nbytes)
                entry.weights = weights
        except AtelierError as error:
            entry.error = error
        except Exception as error:
            entry.error = AdapterRejected(f"{entry.source}: cannot be loaded: {error}")
        finally:
            entry.loading = False
            self._on_ready()

    def _executor(self) -> ThreadPoolExecutor:
        if self._loader is None:
            self._loader = ThreadPoolExecutor(1, thread_name_prefix="adapter-loader")
        return self._loader

    def _info(self, entry: StoredAdapter) -> AdapterInfo:
        return AdapterInfo(
            name=entry.name,
            version=entry.version,
            digest=entry.digest,
            default=self._defaults.get(entry.name) == entry.version,
            rank=entry.rank,
            users=entry.users,
            resident=entry.weights is not None,
        )

    def _unknown(self, name: str, version: int | None) -> str:
        versions = [str(v) for n, v in self._entries if n == name]
        if versions:
            return f"adapter {name}: no version {version} here; held: {', '.join(versions)}"
        names = sorted({n for n, _ in self._entries})
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        some = ", ".join(names[:NAMED]) + (" …" if len(names) > NAMED else "")
        return f"adapter {name}: not held here{hint}; held: {some or 'none'}"
