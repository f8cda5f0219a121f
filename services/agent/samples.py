"""Move the engine's samples to the registry, beside their versions, for the live scores.

A thread of its own does this, so that a slow registry delays neither a round nor a release. While
the registry is unavailable, the samples stay on the volume, where the engine limits their number.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from atelier.contract.sample import FOLDER, SUFFIX, attested_name
from atelier.errors import AtelierError, BadInput
from atelier.stores.registry import VersionInfo

logger = logging.getLogger(__name__)

POLL: Final = 5.0  # seconds between two rounds
LONGEST_WAIT: Final = 300.0  # seconds; the wait doubles with each failed round


class SampleRegistry(Protocol):
    """The registry, as `atelier.stores.registry.Registry`."""

    def version(self, name: str, version: int) -> VersionInfo:
        """Look a version up."""
        ...

    def attest(self, info: VersionInfo, filename: str, data: bytes) -> None:
        """Store a file beside a version."""
        ...


class SampleUploader:
    """Uploads the samples of one volume for one environment, and removes them from the volume."""

    def __init__(self, volume: Path, registry: Callable[[], SampleRegistry], environment: str):
        """`registry` opens a connection, which is not needed without samples."""
        self._folder = volume / FOLDER
        self._open = registry
        self._environment = environment
        self._registry: SampleRegistry | None = None
        self._versions: dict[tuple[str, int], VersionInfo] = {}
        self._failed = 0  # consecutive failed rounds
        self._ended = threading.Event()

    def start(self) -> None:
        """Upload in a background thread until `close`. It does not keep the process alive."""
        threading.Thread(target=self._work, name="samples", daemon=True).start()

    def close(self) -> None:
        """End the thread after its current upload, without waiting for it."""
        self._ended.set()

    def round(self) -> int:
        """Upload all samples once; return their number.

        A sample of a version that the registry does not have is removed. Raises AtelierError if
        the registry is unavailable, and OSError if the volume is.
        """
        uploaded = 0
        for file in sorted(self._folder.glob(f"*/*/[!.]*{SUFFIX}")):
            if self._ended.is_set():
                break
            uploaded += self._upload(file)
        return uploaded

    @property
    def wait(self) -> float:
        """The seconds until the next round."""
        return min(POLL * 2.0**self._failed, LONGEST_WAIT)

    def try_round(self) -> None:
        """Run one round. The first failure in a row is logged; each one doubles `wait`."""
        try:
            self.round()
            self._failed = 0
        except Exception as error:
            if not self._failed:
                expected = isinstance(error, AtelierError | OSError)
                logger.warning("samples: %s; trying again", error, exc_info=not expected)
            self._failed += 1
            self._registry = None

    def _upload(self, file: Path) -> bool:
        name, version = file.parts[-3], file.parts[-2]
        try:
            data = file.read_bytes()
        except FileNotFoundError:  # the engine has replaced it by newer ones
            return False
        try:
            info = self._version(name, int(version))
            self._connected().attest(info, attested_name(self._environment, file.stem), data)
        except (BadInput, ValueError) as error:
            logger.warning("samples: %s is dropped: %s", file, error)
            file.unlink(missing_ok=True)
            return False
        file.unlink(missing_ok=True)
        return True

    def _version(self, name: str, version: int) -> VersionInfo:
        known = self._versions.get((name, version))
        if known is None:
            known = self._connected().version(name, version)
            self._versions[name, version] = known
        return known

    def _connected(self) -> SampleRegistry:
        self._registry = self._registry or self._open()
        return self._registry

    def _work(self) -> None:
        while not self._ended.wait(self.wait):
            self.try_round()
