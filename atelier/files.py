"""Files that are whole or absent, locks, and digests.

Readers in other processes never see half a file: everything is written to the side, flushed to the
disk and renamed.
"""

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o666) -> None:
    """Replace `path` by `data` in one step; the old content stays if anything fails.

    `mode` are the new file's permissions, less the process's umask.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def replace_folder(aside: Path, final: Path) -> None:
    """Publish the finished folder `aside` as `final`, on the same file system.

    A folder already in place is moved out of the way first and removed last, so a crash in between
    leaves it beside the new one, never a mixture of both.
    """
    for folder, _, names in os.walk(aside):
        for name in names:
            with (Path(folder) / name).open("rb") as file:
                os.fsync(file.fileno())
        _sync_folder(Path(folder))
    final.parent.mkdir(parents=True, exist_ok=True)
    old = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
    if final.exists():
        final.rename(old)
    aside.rename(final)
    _sync_folder(final.parent)
    if old.exists():
        shutil.rmtree(old)


@contextmanager
def locked(path: Path, *, busy: Exception | None = None, shared: bool = False) -> Iterator[None]:
    """Hold the lock of the file `path`, alone or with others who share it.

    Raises `busy` where it cannot be had at once; without it, waits. The kernel lets go of the lock
    however this process ends. The file stays: removing it would give the next two a lock each.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with path.open("a") as file:
        try:
            fcntl.flock(file, kind | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            assert busy is not None
            raise busy from None
        yield


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_bytes(data: bytes) -> str:
    """`sha256:<hex>` of `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def sha256_file(path: Path) -> str:
    """`sha256:<hex>` of a file's bytes."""
    with Path(path).open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def digest_json(value: Any) -> str:
    """`sha256:<hex>` of a JSON value, whatever the order of its keys."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return sha256_bytes(text.encode())


def digest_files(root: Path, files: Iterable[Path]) -> str:
    """`sha256:<hex>` over the names (relative to `root`) and contents of `files`."""
    return digest_lines({file.relative_to(root).as_posix(): sha256_file(file) for file in files})


def digest_lines(files: Mapping[str, str]) -> str:
    """`sha256:<hex>` over names of files and their digests."""
    lines = sorted(f"{name} {digest}\n" for name, digest in files.items())
    return sha256_bytes("".join(lines).encode())


def digest_folder(path: Path, patterns: Sequence[str] | None = None) -> str:
    """`sha256:<hex>` over a folder's files, or over those that match a glob of `patterns`."""
    found = {file for pattern in patterns or ("**/*",) for file in path.glob(pattern)}
    return digest_files(path, (file for file in found if file.is_file()))
