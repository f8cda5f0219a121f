"""The verified packages on a volume: nothing is named here that was not checked byte for byte."""

import re
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from atelier.adapter.package import Package
from atelier.errors import AdapterRejected
from atelier.files import replace_folder
from atelier.names import hex_of

_HEX = re.compile("[0-9a-f]{64}")
_ENDINGS = (".json", ".safetensors")
RESCAN_SECONDS = 2.0  # thousands of packages are not looked at four times a second

Signature = tuple[tuple[str, int, int, int], ...]  # of files: name, size, change time, inode


class PackageShelf:
    """`volume/packages/`: a folder each, named by the hex part of its digest.

    A package is verified when it arrives, when this process first sees it, and whenever one of its
    files changes; one that fails is taken away, so that it can be fetched again.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._verified: dict[str, Signature] = {}
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
        for digest in gone & set(self._verified):
            del self._verified[digest]
        return frozenset(self._verified), bad

    def put(self, digest: str, fetch: Callable[[Path], object]) -> None:
        """Let `fetch` fill a folder to the side, verify it as `digest`, then make it visible."""
        aside = self.folder / f".{hex_of(digest)[:12]}.{uuid.uuid4().hex[:8]}"
        try:
            fetch(aside)
            Package.open(aside, digest=digest)
            final = self.folder / hex_of(digest)
            replace_folder(aside, final)
            self._verified[digest] = _signature(final)
        except AdapterRejected as error:
            # not where it lay for a moment: the same fault has the same text at each attempt
            aside_there = rf"{re.escape(str(self.folder))}/\.[^:\s]*"
            text = re.sub(aside_there, _in_registry, str(error))
            raise AdapterRejected(text) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def remove(self, digest: str) -> None:
        """Take a package away; renamed first, so that nobody sees half of it."""
        self._verified.pop(digest, None)
        self._scanned = None
        path = self.folder / hex_of(digest)
        aside = self.folder / f".removed.{uuid.uuid4().hex[:8]}"
        if path.exists():
            path.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what an agent that was killed left half done; only while no other one runs."""
        for left in self.folder.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)

    def _entries(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if _HEX.fullmatch(path.name))

    def _verify(self, digest: str, path: Path) -> None:
        signature = _signature(path)
        if self._verified.get(digest) != signature:
            Package.open(path, digest=digest)
            self._verified[digest] = signature


def _in_registry(path: re.Match[str]) -> str:
    """What a path to the side stands for: the package, or one of its files."""
    name = Path(path[0]).name
    return "the package in the registry" + (f", {name}" if name.endswith(_ENDINGS) else "")


def _signature(path: Path) -> Signature:
    if not path.is_dir():
        raise AdapterRejected(f"{path}: not a package folder; remove it")
    found = [(file, file.lstat()) for file in sorted(path.iterdir())]
    return tuple((file.name, s.st_size, s.st_mtime_ns, s.st_ino) for file, s in found)
