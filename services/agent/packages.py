"""The verified packages on a volume: nothing is named here that was not checked byte for byte."""

import re
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from atelier.adapter.package import Package
from atelier.adapter.signature_policy import SignaturePolicy
from atelier.data.names import hex_of
from atelier.errors import AdapterRejected, SignatureRejected, Unavailable
from atelier.files import replace_folder, write_atomic
from services.agent.plan import Named

_HEX = re.compile("[0-9a-f]{64}")
_ENDINGS = (".json", ".safetensors")
RESCAN_SECONDS = 2.0  # thousands of packages are not looked at four times a second

SIGNATURE = ".sig"  # the ending of a package's signature, beside its folder
Stamp = tuple[tuple[str, int, int, int], ...]  # of files: name, size, change time, inode


class PackageShelf:
    """`volume/packages/`: a folder each, named by the hex part of its digest, its signature beside.

    A package is verified when it arrives, when this process first sees it, and whenever one of its
    files changes; one that fails is taken away, so that it can be fetched again.
    """

    def __init__(self, folder: Path, trust: SignaturePolicy):
        self.folder = folder
        self.refused: set[str] = set()  # digests whose signature was not good, until one is
        self.warnings: dict[str, str] = {}  # by digest: a signature that is not good, and is served
        self._trust = trust
        self._verified: dict[str, Stamp] = {}
        self._scanned: float | None = None  # when, on the monotonic clock; None: look again

    def scan(self) -> tuple[frozenset[str], dict[str, str]]:
        """The digests of the good packages, and by digest what was wrong with those taken away."""
        now = time.monotonic()
        if self._scanned is not None and now - self._scanned < RESCAN_SECONDS:
            return frozenset(self._verified), {}
        self._scanned = now
        bad: dict[str, str] = {}
        gone = set(self._verified)
        for path in self._entries():
            digest = f"sha256:{path.name}"
            try:
                self._verify(digest, path)
                gone.discard(digest)
            except AdapterRejected as error:
                bad[digest] = str(error)
                self.remove(digest)
            except (OSError, Unavailable) as error:  # says nothing of the package: it stays
                bad[digest] = f"{path}: cannot be checked now: {error}"
        for digest in gone & set(self._verified):
            del self._verified[digest]
        return frozenset(self._verified), bad

    def put(self, one: Named, fetch: Callable[[Path], object], signatures: Sequence[bytes]) -> None:
        """Let `fetch` fill a folder to the side, verify it as that version's digest and by its
        signatures, then make it visible, the good one beside it."""
        digest = one.digest
        aside = self.folder / f".{hex_of(digest)[:12]}.{uuid.uuid4().hex[:8]}"
        try:
            fetch(aside)
            signature = self._check(digest, aside, signatures)
            final, beside = self._places(digest)
            if signature is None:
                beside.unlink(missing_ok=True)
            else:
                write_atomic(beside, signature)  # first: a package never waits for its signature
            replace_folder(aside, final)
            self._verified[digest] = _stamp(final, beside)
        except AdapterRejected as error:
            # not where it lay for a moment: the same fault has the same text at each attempt
            aside_there = rf"{re.escape(str(self.folder))}/\.[^:\s]*"
            text = re.sub(aside_there, partial(_in_registry, one), str(error))
            raise AdapterRejected(text) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def remove(self, digest: str) -> None:
        """Take a package away; renamed first, so that nobody sees half of it."""
        self._verified.pop(digest, None)
        self.warnings.pop(digest, None)
        self._scanned = None
        path, beside = self._places(digest)
        aside = self.folder / f".removed.{uuid.uuid4().hex[:8]}"
        if path.exists():
            path.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        beside.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what an agent that was killed left half done; only while no other one runs."""
        for left in self.folder.glob(".*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        for beside in self.folder.glob(f"*{SIGNATURE}"):
            if not beside.with_suffix("").exists():
                beside.unlink(missing_ok=True)

    def _entries(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if _HEX.fullmatch(path.name))

    def _places(self, digest: str) -> tuple[Path, Path]:
        """Where a package and its signature lie."""
        folder = self.folder / hex_of(digest)
        return folder, folder.with_name(folder.name + SIGNATURE)

    def _verify(self, digest: str, path: Path) -> None:
        beside = self._places(digest)[1]
        stamp = _stamp(path, beside)
        if self._verified.get(digest) != stamp:
            self._check(digest, path, [beside.read_bytes()] if beside.exists() else [])
            self._verified[digest] = stamp

    def _check(self, digest: str, path: Path, signatures: Sequence[bytes]) -> bytes | None:
        """The signature to keep; refuses what is not the package, or not signed as is asked for."""
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
        return checked.signature


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
