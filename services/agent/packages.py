"""The packages on a volume, each verified byte by byte against its digest."""

import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from atelier.adapter.package import Package
from atelier.adapter.signature_policy import SignaturePolicy
from atelier.contract.shards import Shards
from atelier.data.names import hex_of
from atelier.errors import AdapterRejected, SignatureRejected, Unavailable
from atelier.files import staging, write_atomic
from atelier.stores.registry import VersionInfo
from services.agent.plan import Named
from services.agent.verified import Stamp, VerificationRecords

_HEX = re.compile("[0-9a-f]{64}")
_ENDINGS = (".json", ".safetensors")
RESCAN_SECONDS = 2.0  # time between two scans; a round is shorter
SCANNED = 256  # packages that one scan checks, in turn, in about 25 ms
# longest time that a scan spends on verification, because the agent waits for it
VERIFY_SECONDS = 1.0

# bytes of the volume that packages leave free, for wanted.json and other files
RESERVED = 8 * 2**20

Download = Callable[[Path], object]  # downloads a package as a new folder


class PackageRegistry(Protocol):
    """The registry, as `atelier.stores.registry.Registry`. A version is looked up once."""

    def version(self, name: str, version: int) -> VersionInfo:
        """Look a version up."""
        ...

    def signatures(self, info: VersionInfo) -> Sequence[bytes]:
        """Return the signatures of a version's package."""
        ...

    def download(self, info: VersionInfo, into: Path) -> None:
        """Download a version's package, unverified, as the new folder `into`."""
        ...


SIGNATURE = ".sig"  # suffix of a signature file, which is beside the folder of its package


class PackageShelf:
    """The folder `volume/packages/`: one folder for each package, and its signature beside it.

    The name of a folder is the hex part of the package's digest. A package is verified when it
    arrives, when one of its files changes, when `recheck` requests it, and at the start unless an
    earlier process has verified it (see `verified`). An invalid package is removed, so that it is
    fetched again.
    """

    def __init__(self, folder: Path, policy: SignaturePolicy):
        self.folder = folder
        # digests without a valid signature, with the policy `enforce`
        self.refused: set[str] = set()
        self.warnings: dict[str, str] = {}  # by digest: signature problems, with the policy `warn`
        self._policy = policy
        self._record = VerificationRecords(folder, policy)
        # by digest; None: recorded, but the record has not been read yet
        self._verified: dict[str, Stamp | None] = {}
        self._queue: list[str] | None = None  # digests to check next; None: not listed yet
        self._rechecks: list[str] = []  # digests to verify at the next scan
        self._scanned: float | None = None  # time of the last scan, monotonic seconds
        self._good: Shards[bool] = Shards()  # the verified digests
        self._lock = threading.Lock()  # protects _verified and _good, which fetch threads change

    def scan(self) -> tuple[Shards[bool], dict[str, str]]:
        """Return the digests of verified packages, and the errors of removed packages by digest.

        The digests are the keys of a mapping, which is the same object until they change. A scan
        checks some of the packages, in turn. The result does not include unverified packages.
        """
        now = time.monotonic()
        bad: dict[str, str] = {}
        while self._rechecks and time.monotonic() - now < VERIFY_SECONDS:
            self._check_again(self._rechecks.pop(), bad)
        if self._scanned is not None and now - self._scanned < RESCAN_SECONDS:
            return self._good, bad
        self._scanned = now
        if self._queue is None:
            self._queue = self._restore()
        elif not self._queue:
            self._queue = list(self._verified)
        batch = self._queue[-SCANNED:]
        del self._queue[-SCANNED:]
        while batch and time.monotonic() - now < VERIFY_SECONDS:
            self._check_again(batch.pop(), bad)
        self._queue += batch
        return self._good, bad

    def adopt(self, version: Named) -> bool:
        """Verify a package now. Return whether it is on the volume and valid; else remove it."""
        if self._paths(version.digest)[0].exists():
            self._check_again(version.digest, {})
        return version.digest in self._verified

    def recheck(self, digest: str) -> None:
        """Verify a package again at the next scan, because the engine could not load it."""
        if digest in self._verified:
            self._forget(digest)
            self._rechecks.append(digest)

    def put(self, version: Named, download: Download, signatures: Sequence[bytes]) -> None:
        """Download a version, verify its digest and its signatures, then make it visible.

        Keeps the valid signature beside the package. Raises AdapterRejected.
        """
        digest = version.digest
        final, beside = self._paths(digest)
        try:
            with staging(final) as aside:
                download(aside / "package")
                package, signature = self._check(digest, aside / "package", signatures)
                self._forget(digest)
                if signature is None:
                    beside.unlink(missing_ok=True)
                else:
                    # before the package, so that a visible package has its signature
                    write_atomic(beside, signature)
                package.publish(final)
            self._remember(digest, _stamp(final, beside))
        except AdapterRejected as error:
            # without the temporary path, so that an error has the same text in each attempt
            temporary = rf"{re.escape(str(self.folder))}/\.[^:\s]*"
            text = re.sub(temporary, partial(_in_registry, version), str(error))
            raise AdapterRejected(text) from error

    def remove(self, digest: str) -> None:
        """Remove a package. It is renamed first, so that no reader sees a part of it."""
        self._forget(digest)
        self.warnings.pop(digest, None)
        path, beside = self._paths(digest)
        aside = self.folder / f".removed.{uuid.uuid4().hex[:8]}"
        if path.exists():
            path.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        beside.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove the incomplete files of a killed agent. No other agent may use the volume."""
        names = self._names()
        for path in (self.folder / name for name in names if name.startswith(".")):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        for name in names:
            if name.endswith(SIGNATURE) and name.removesuffix(SIGNATURE) not in names:
                (self.folder / name).unlink(missing_ok=True)

    def _restore(self) -> list[str]:
        """Restore the packages that an earlier process verified. Return the other digests."""
        present = {f"sha256:{name}" for name in self._names() if _HEX.fullmatch(name)}
        recorded = set(self._record.digests())
        known = present & recorded
        for digest in recorded - present:
            self._record.remove(digest)
        self._verified, self._good = dict.fromkeys(known), Shards(dict.fromkeys(known, True))
        if self._policy.policy == "warn":
            warnings = {digest: self._record.read(digest)[1] for digest in known}
            self.warnings |= {digest: text for digest, text in warnings.items() if text}
        return sorted(present - known)

    def _names(self) -> set[str]:
        """Return the names of the entries of the folder."""
        try:
            with os.scandir(self.folder) as entries:
                return {entry.name for entry in entries}
        except FileNotFoundError:
            return set()

    def _paths(self, digest: str) -> tuple[Path, Path]:
        """Return the paths of a package and of its signature."""
        folder = self.folder / hex_of(digest)
        return folder, folder.with_name(folder.name + SIGNATURE)

    def _check_again(self, digest: str, bad: dict[str, str]) -> None:
        """Verify a package if its files have changed. If invalid, remove it and add its error."""
        path, beside = self._paths(digest)
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
        except (OSError, Unavailable) as error:  # the package stays, because it may be valid
            bad[digest] = f"{path}: cannot be checked now: {error}"

    def _remember(self, digest: str, stamp: Stamp) -> None:
        """Mark a package as verified, for this and for later processes."""
        self._record.put(digest, stamp, self.warnings.get(digest))
        with self._lock:
            self._verified[digest] = stamp
            self._good = self._good.replaced({digest: True})

    def _forget(self, digest: str) -> None:
        """Mark a package as not verified."""
        self._record.remove(digest)
        with self._lock:
            self._verified.pop(digest, None)
            self._good = self._good.replaced({digest: None})

    def _check(
        self, digest: str, path: Path, signatures: Sequence[bytes]
    ) -> tuple[Package, bytes | None]:
        """Return the package and the signature to keep.

        Raises AdapterRejected if the digest differs or the signature policy is not met.
        """
        package = Package.open(path, digest=digest)
        try:
            checked = self._policy.check(package, signatures)
        except SignatureRejected:
            self.refused.add(digest)
            raise
        self.refused.discard(digest)
        self.warnings.pop(digest, None)
        if checked.warning is not None:
            self.warnings[digest] = checked.warning
        return package, checked.signature


class PackageSource:
    """Fetch versions from MLflow to a shelf."""

    def __init__(
        self,
        shelf: PackageShelf,
        policy: SignaturePolicy,
        registry: Callable[[], PackageRegistry],
    ):
        """`registry` opens a connection, because MLflow may be unavailable at the start."""
        self._shelf = shelf
        self._policy = policy
        self._registry = registry

    def fetch(self, version: Named) -> None:
        """Put a version's package on the shelf, unless a valid one is there already.

        Signatures are read first, so an unsigned package is refused before it is downloaded. Raises
        Unavailable if the volume is full or cannot be written, AdapterRejected if the package or
        its signature is not valid.
        """
        label, volume = f"{version.name}@{version.version}", self._shelf.folder.parent
        try:
            free = shutil.disk_usage(volume).free
            if free < RESERVED:
                raise Unavailable(
                    f"{label}: {volume} has {free >> 20} MiB left, too little for a package; free "
                    "some space, or use a larger volume"
                )
            if self._shelf.adopt(version):
                return
            registry = self._registry()
            info = registry.version(version.name, version.version)
            signatures = self._signatures(registry, info)
            self._shelf.put(version, partial(registry.download, info), signatures)
        except OSError as error:
            raise Unavailable(
                f"{label}: cannot be written to {volume}: {error.strerror}"
            ) from error

    def _signatures(self, registry: PackageRegistry, info: VersionInfo) -> Sequence[bytes]:
        if self._policy.policy == "off":
            return ()
        signatures = registry.signatures(info)
        if not signatures and self._policy.policy == "enforce":
            raise SignatureRejected(
                f"{info.label}: is not signed, and this environment serves only signed packages; "
                f"run `atelier sign {info.name} {info.version}`"
            )
        return signatures


def _in_registry(version: Named, path: re.Match[str]) -> str:
    """Return the text that replaces a temporary path: a package in the registry, or its file."""
    name = Path(path[0]).name
    file = f", {name}" if name.endswith(_ENDINGS) else ""
    return f"{version.name}@{version.version} in the registry{file}"


def _stamp(path: Path, beside: Path) -> Stamp:
    if not path.is_dir():
        raise AdapterRejected(f"{path}: not a package folder; remove it")
    files = [*sorted(path.iterdir()), *([beside] if beside.exists() else [])]
    stats = [(file, file.lstat()) for file in files]
    return tuple((file.name, s.st_size, s.st_mtime_ns, s.st_ino) for file, s in stats)
