"""What an earlier process of the volume has verified, so that a restart need not do it again.

A package that was checked byte for byte gets a record: size, change time and inode of each of its
files and of its signature. A later process believes it as long as these stay the same, and whoever
loads the package checks its bytes against its digest again before they are used. The trade-off:
damage that leaves size and change time alone is found when the package is loaded, and not at the
start. A signature ties a digest to a signer, so it is checked again only when other signers are
trusted: then every package is.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from atelier.adapter.signature_policy import SignaturePolicy
from atelier.data.names import hex_of
from atelier.files import write_atomic

logger = logging.getLogger(__name__)

FOLDER = "verified"  # beside that of the packages
TRUST = "trust"  # the file that says whose signatures counted when the others were written

Stamp = tuple[tuple[str, int, int, int], ...]  # of files: name, size, change time, inode


class Verified:
    """One record a package, named by the hex part of its digest. Those that were written under
    another trust are dropped."""

    def __init__(self, folder: Path, trust: SignaturePolicy):
        """`folder` is the packages'."""
        self._folder = folder.with_name(FOLDER)
        self._trust = hashlib.sha256(repr(trust).encode()).hexdigest()
        self._begun = False  # whether records of another trust are gone

    def digests(self) -> Iterator[str]:
        """Of the packages that were verified under this trust."""
        try:
            self._begin()
            with os.scandir(self._folder) as entries:
                names = [entry.name for entry in entries]
        except OSError as error:
            logger.warning("%s: packages are verified again: %s", self._folder, error.strerror)
            return
        for name in names:
            if name != TRUST and not name.startswith("."):
                yield f"sha256:{name}"

    def read(self, digest: str) -> tuple[Stamp | None, str | None]:
        """The files as they were when verified, and what was warned of; None without a record."""
        try:
            found = json.loads((self._folder / hex_of(digest)).read_bytes())
            files = tuple(
                (str(n), int(size), int(time), int(inode))
                for n, size, time, inode in found["files"]
            )
            return files, found["warning"]
        except (OSError, ValueError, LookupError, TypeError):
            return None, None

    def put(self, digest: str, files: Stamp, warning: str | None) -> None:
        """Record a package as verified; on a full disk it is verified again by a later process."""
        with suppress(OSError):
            self._begin()
            text = json.dumps({"files": files, "warning": warning})
            write_atomic(self._folder / hex_of(digest), text)

    def remove(self, digest: str) -> None:
        """Forget a package."""
        (self._folder / hex_of(digest)).unlink(missing_ok=True)

    def _begin(self) -> None:
        """Drop the records of another trust, once."""
        if self._begun:
            return
        file = self._folder / TRUST
        if not file.exists() or file.read_bytes() != self._trust.encode():
            shutil.rmtree(self._folder, ignore_errors=True)
            write_atomic(file, self._trust)
        self._begun = True
