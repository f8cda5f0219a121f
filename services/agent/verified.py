"""Records of verified packages, so that a restart does not verify them again.

The record of a package contains size, change time and inode of each of its files and of its
signature. A later process accepts the package as long as these values do not change. The engine
verifies the package against its digest again before it uses the weights. Damage that changes none
of these values is therefore detected when the package is loaded, not at the start. If the signature
policy changes, all packages are verified again.
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

FOLDER = "verified"  # folder beside the folder of the packages
# file with the digest of the signature policy under which the packages were verified
POLICY = "trust"

Stamp = tuple[tuple[str, int, int, int], ...]  # name, size, change time and inode of each file


class VerificationRecords:
    """One record for each package, named by the hex part of its digest.

    Records of another signature policy are removed.
    """

    def __init__(self, folder: Path, policy: SignaturePolicy):
        """Use the records beside `folder`, the folder of the packages."""
        self._folder = folder.with_name(FOLDER)
        self._policy = hashlib.sha256(repr(policy).encode()).hexdigest()
        self._begun = False  # whether the records of other policies have been removed

    def digests(self) -> Iterator[str]:
        """Yield the digests of the packages that were verified under this policy."""
        try:
            self._begin()
            with os.scandir(self._folder) as entries:
                names = [entry.name for entry in entries]
        except OSError as error:
            logger.warning("%s: packages are verified again: %s", self._folder, error.strerror)
            return
        for name in names:
            if name != POLICY and not name.startswith("."):
                yield f"sha256:{name}"

    def read(self, digest: str) -> tuple[Stamp | None, str | None]:
        """Return the verified state of the files and a warning, or None without a record."""
        try:
            record = json.loads((self._folder / hex_of(digest)).read_bytes())
            files = tuple(
                (str(n), int(size), int(time), int(inode))
                for n, size, time, inode in record["files"]
            )
            return files, record["warning"]
        except (OSError, ValueError, LookupError, TypeError):
            return None, None

    def put(self, digest: str, files: Stamp, warning: str | None) -> None:
        """Record a package as verified. On a full disk, a later process verifies it again."""
        with suppress(OSError):
            self._begin()
            text = json.dumps({"files": files, "warning": warning})
            write_atomic(self._folder / hex_of(digest), text)

    def remove(self, digest: str) -> None:
        """Remove the record of a package."""
        (self._folder / hex_of(digest)).unlink(missing_ok=True)

    def _begin(self) -> None:
        """Remove the records of another policy, once."""
        if self._begun:
            return
        file = self._folder / POLICY
        if not file.exists() or file.read_bytes() != self._policy.encode():
            shutil.rmtree(self._folder, ignore_errors=True)
            write_atomic(file, self._policy)
        self._begun = True
