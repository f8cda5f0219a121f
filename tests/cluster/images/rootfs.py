"""Debian's files, as a tar that is the same for the same packages."""

import hashlib
import shutil
import tarfile
import tempfile
from pathlib import Path

from tests.cluster.images.store import run

SUITE = "bookworm"
# libpython3: the wheel's Triton runs its models in an embedded Python; libgomp1: torch's threads
PACKAGES = ("ca-certificates", "libgomp1", "libpython3.11", "python3", "python3-venv")
# Lists and caches of packages, logs with times in them, and what nobody reads in a container.
LEFT_OUT = (
    *("var/cache", "var/lib/apt/lists", "var/log", "var/lib/dpkg/status-old"),
    *("usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man"),
    *("dev", "etc/machine-id", "etc/resolv.conf", "etc/hostname"),
)


def key() -> str:
    """Names what a rootfs is made of; not the day, so a machine keeps the Debian of its first."""
    return hashlib.sha256(repr((SUITE, PACKAGES, LEFT_OUT)).encode()).hexdigest()[:12]


def make(target: Path) -> None:
    """Write the tar (about a minute; root, debootstrap and a Debian mirror needed)."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        root = Path(scratch) / "rootfs"
        run(
            "debootstrap",
            *("--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE),
            root,
        )
        for name in LEFT_OUT:
            _empty(root / name)
        whole = Path(scratch) / "rootfs.tar"
        with tarfile.open(whole, "w") as tar:
            tar.add(root, ".", filter=_plain)
        whole.rename(target)


def _empty(path: Path) -> None:
    """A folder stays, without what is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        path.mkdir()
    else:
        path.unlink(missing_ok=True)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry
