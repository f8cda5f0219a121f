"""The verified packages on a volume: nothing is named here that was not checked byte for byte."""

import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from atelier.adapter.package import Package
from atelier.adapter.signature_policy import SignaturePolicy
from atelier.contract.shards import Shards
from atelier.data.names import hex_of
from atelier.errors import AdapterRejected, SignatureRejected, Unavailable
from atelier.files import staging, write_atomic
from services.agent.plan import Named
from services.agent.verified import Stamp, Verified

_HEX = re.compile("[0-9a-f]{64}")
_ENDINGS = (".json", ".safetensors")
RESCAN_SECONDS = 2.0  # thousands of packages are not looked at four times a second
LOOKED_AT = 256  # packages of one scan, in turn; half a dozen milliseconds
VERIFY_SECONDS = 1.0  # that one scan spends on verifying, as the agent's loop waits for it

Fetch = Callable[[str, int, Path], object]  # brings an adapter's version as a new folder
SIGNATURE = ".sig"  # the ending of a package's signature, beside its folder


class PackageShelf:
    """`volume/packages/`: a folder each, named by the hex part of its digest, its signature beside.

    A package is verified when it arrives, when no earlier process has done so (see `verified`),
    whenever one of its files changes, and when it is doubted. One that fails is taken away, so that
    it can be fetched again.
    """

    def __init__(self, folder: Path, trust: SignaturePolicy):
        self.folder = folder
        self.refused: set[str] = set()  # digests whose signature was not good, until one is
        self.warnings: dict[str, str] = {}  # by digest: a signature that is not good, and is served
        self._trust = trust
        self._record = Verified(folder, trust)
        self._verified: dict[str, Stamp | None] = {}  # None: as the record says, not read yet
        self._queue: list[str] | None = None  # digests to look at next; None: those on the disk
        self._doubted: list[str] = []  # digests to verify at the next scan
        self._scanned: float | None = None  # when, on the monotonic clock; None: never
        self._good: Shards[bool] = Shards()  # the verified digests
        self._lock = threading.Lock()  # of both: fetches put packages here beside the agent's loop

    def scan(self) -> tuple[Shards[bool], dict[str, str]]:
        """Return the digests of the good packages, and the errors of the removed ones by digest.

        The digests are the keys of a mapping, which is the same object as long as they stay. A scan
        checks some of the packages, in turn. A package that is not verified yet is not good yet.
        """
        now = time.monotonic()
        bad: dict[str, str] = {}
        while self._doubted and time.monotonic() - now < VERIFY_SECONDS:
            self._look_at(self._doubted.pop(), bad)
        if self._scanned is not None and now - self._scanned < RESCAN_SECONDS:
            return self._good, bad
        self._scanned = now
        if self._queue is None:
            self._queue = self._there()
        elif not self._queue:
            self._queue = list(self._verified)
        looked_at = self._queue[-LOOKED_AT:]
        del self._queue[-LOOKED_AT:]
        while looked_at and time.monotonic() - now < VERIFY_SECONDS:
            self._look_at(looked_at.pop(), bad)
        self._queue += looked_at
        return self._good, bad

    def adopt(self, one: Named) -> bool:
        """Whether the package lies here, verified now; one that is not good is taken away."""
        bad: dict[str, str] = {}
        if self._places(one.digest)[0].exists():
            self._look_at(one.digest, bad)
        return one.digest in self._verified

    def doubt(self, digest: str) -> None:
        """Verify a package again at the next scan: whoever loaded it found it damaged."""
        if digest in self._verified:
            self._forget(digest)
            self._doubted.append(digest)

    def put(self, one: Named, fetch: Fetch, signatures: Sequence[bytes]) -> None:
        """Let `fetch` make a folder to the side, verify it once, as that version's digest and by
        its signatures, then make it visible, the good signature beside it."""
        digest = one.digest
        final, beside = self._places(digest)
        try:
            with staging(final) as aside:
                fetch(one.name, one.version, aside / "package")
                package, signature = self._check(digest, aside / "package", signatures)
                self._forget(digest)
                if signature is None:
                    beside.unlink(missing_ok=True)
                else:
                    write_atomic(beside, signature)  # first: no package waits for its signature
                package.publish(final)
            self._remember(digest, _stamp(final, beside))
        except AdapterRejected as error:
            # not where it lay for a moment: the same fault has the same text at each attempt
            aside_there = rf"{re.escape(str(self.folder))}/\.[^:\s]*"
            text = re.sub(aside_there, partial(_in_registry, one), str(error))
            raise AdapterRejected(text) from error

    def remove(self, digest: str) -> None:
        """Take a package away; renamed first, so that nobody sees half of it."""
        self._forget(digest)
        self.warnings.pop(digest, None)
        path, beside = self._places(digest)
        aside = self.folder / f".removed.{uuid.uuid4().hex[:8]}"
        if path.exists():
            path.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        beside.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what an agent that was killed left half done; only while no other one runs."""
        there = self._names()
        for left in (self.folder / name for name in there if name.startswith(".")):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        for name in there:
            if name.endswith(SIGNATURE) and name.removesuffix(SIGNATURE) not in there:
                (self.folder / name).unlink(missing_ok=True)

    def _there(self) -> list[str]:
        """The digests of the packages that still have to be looked at, once those are known that an
        earlier process has verified."""
        there = {f"sha256:{name}" for name in self._names() if _HEX.fullmatch(name)}
        recorded = set(self._record.digests())
        known = there & recorded
        for digest in recorded - there:
            self._record.remove(digest)
        self._verified, self._good = dict.fromkeys(known), Shards(dict.fromkeys(known, True))
        if self._trust.policy == "warn":
            told = {digest: self._record.read(digest)[1] for digest in known}
            self.warnings |= {digest: warning for digest, warning in told.items() if warning}
        return sorted(there - known)

    def _names(self) -> set[str]:
        """What lies in the folder."""
        try:
            with os.scandir(self.folder) as entries:
                return {entry.name for entry in entries}
        except FileNotFoundError:
            return set()

    def _places(self, digest: str) -> tuple[Path, Path]:
        """Where a package and its signature lie."""
        folder = self.folder / hex_of(digest)
        return folder, folder.with_name(folder.name + SIGNATURE)

    def _look_at(self, digest: str, bad: dict[str, str]) -> None:
        """Verify a package where that is due, and take it away where it is not good."""
        path, beside = self._places(digest)
        try:
            if not path.exists():
                self._forget(digest)
                return
            stamp = _stamp(path, beside)
            known = self._verified.get(digest)
            if known is None and digest in self._verified:
                known = self._record.read(digest)[0]
            if known == stamp:
                self._verified[digest] = stamp
                return
            self._forget(digest)
            self._check(digest, path, [beside.read_bytes()] if beside.exists() else [])
            self._remember(digest, stamp)
        except AdapterRejected as error:
            bad[digest] = str(error)
            self.remove(digest)
        except (OSError, Unavailable) as error:  # says nothing of the package: it stays
            bad[digest] = f"{path}: cannot be checked now: {error}"

    def _remember(self, digest: str, stamp: Stamp) -> None:
        """Count a package as verified, here and in a later process."""
        self._record.put(digest, stamp, self.warnings.get(digest))
        with self._lock:
            self._verified[digest] = stamp
            self._good = self._good.replaced({digest: True})

    def _forget(self, digest: str) -> None:
        """Count a package as not verified."""
        self._record.remove(digest)
        with self._lock:
            self._verified.pop(digest, None)
            self._good = self._good.replaced({digest: None})

    def _check(
        self, digest: str, path: Path, signatures: Sequence[bytes]
    ) -> tuple[Package, bytes | None]:
        """The package and the signature to keep; AdapterRejected where it is not the package, or
        not signed as this environment asks for."""
        package = Package.open(path, digest=digest)
        try:
            checked = self._trust.check(package, signatures)
        except SignatureRejected:
            self.refused.add(digest)
            raise
        self.refused.discard(digest)
        self.warnings.pop(digest, None)
        if checked.warning is not None:
            self.warnings[digest] = checked.warning
        return package, checked.signature


def _in_registry(one: Named, path: re.Match[str]) -> str:
    """What a path to the side stands for: a version's package, or one of its files."""
    name = Path(path[0]).name
    file = f", {name}" if name.endswith(_ENDINGS) else ""
    return f"{one.name}@{one.version} in the registry{file}"


def _stamp(path: Path, beside: Path) -> Stamp:
    if not path.is_dir():
        raise AdapterRejected(f"{path}: not a package folder; remove it")
    files = [*sorted(path.iterdir()), *([beside] if beside.exists() else [])]
    found = [(file, file.lstat()) for file in files]
    return tuple((file.name, s.st_size, s.st_mtime_ns, s.st_ino) for file, s in found)
