"""Atomic writes of files and folders, locks, and digests.

A file is written under a temporary name, flushed to the disk, and renamed, so other processes never
read an incomplete file.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

_IN_PLACE = (errno.ENOTEMPTY, errno.EEXIST)  # errors of a rename onto a folder that is not empty
_LOOK = 0.1  # seconds between two attempts to take a lock


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o666) -> None:
    """Replace the content of `path` atomically; the old content stays if the write fails.

    `mode` gives the permissions of the new file, before the process's umask.
    """
    with writing(path, mode=mode) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def writing(path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a new file that atomically replaces `path` at the end of the block.

    The old content stays if the block fails. Several processes may write one path at once: each
    writes its own file, and the last one to end wins.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def staging(final: Path) -> Iterator[Path]:
    """Create an empty folder beside `final` to build it in; publish it with `replace_folder`.

    The name of the new folder is hidden and unique, so processes that build the same folder do not
    conflict. At the end of the block, a folder that was not published is removed.
    """
    aside = _aside(Path(final))
    aside.mkdir(parents=True)
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def replace_folder(aside: Path, final: Path) -> None:
    """Publish the finished folder `aside` as `final`, on the same file system.

    An existing folder is renamed first and removed last, so a crash in between leaves the old
    folder beside the new one, and never a mixture of both. If several processes publish at once,
    the last one wins.
    """
    for folder, _, names in os.walk(aside):
        for name in names:
            with (Path(folder) / name).open("rb") as file:
                os.fsync(file.fileno())
        _sync_folder(Path(folder))
    final.parent.mkdir(parents=True, exist_ok=True)
    old: list[Path] = []
    while True:
        try:
            aside.rename(final)
            break
        except OSError as error:
            if error.errno not in _IN_PLACE:
                raise
        old.append(_aside(final))
        with suppress(FileNotFoundError):  # another process has moved the folder
            final.rename(old[-1])
    _sync_folder(final.parent)
    for folder_before in old:
        if folder_before.exists():
            shutil.rmtree(folder_before)


def _aside(path: Path) -> Path:
    """Return a hidden, unique name beside `path`."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")


@contextmanager
def locked(
    path: Path,
    *,
    busy: Exception | None = None,
    shared: bool = False,
    waiting: Callable[[], None] | None = None,
    temporary: bool = False,
) -> Iterator[None]:
    """Hold the lock of the file `path`, exclusively or shared with other holders.

    Raises `busy` if the lock is taken; without `busy`, waits for it. During the wait, `waiting` is
    called about ten times a second; an exception that it raises ends the wait. The kernel releases
    the lock when this process ends. The lock file stays, unless it is `temporary`, for folders that
    must not contain other files. A shared lock cannot be temporary.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        with path.open("a") as file:
            _take(file, kind, busy, waiting)
            if os.fstat(file.fileno()).st_nlink == 0:
                continue  # the last holder removed the file, so open a new one
            try:
                yield
            finally:
                if temporary:
                    path.unlink(missing_ok=True)
            return


def _take(
    file: IO[str], kind: int, busy: Exception | None, waiting: Callable[[], None] | None
) -> None:
    """Take the lock of an open file."""
    while True:
        try:
            fcntl.flock(file, kind | (fcntl.LOCK_NB if busy or waiting else 0))
            return
        except BlockingIOError:
            if busy is not None:
                raise busy from None
            assert waiting is not None
        waiting()
        time.sleep(_LOOK)


def _sync_folder(folder: Path) -> None:
    """Flush a folder, so that a rename survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_bytes(data: bytes) -> str:
    """Return `sha256:<hex>` of `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def sha256_file(path: Path) -> str:
    """Return `sha256:<hex>` of a file's bytes."""
    with Path(path).open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def digest_json(value: Any) -> str:
    """Return `sha256:<hex>` of a JSON value, independent of the order of keys."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return sha256_bytes(text.encode())


def digest_files(root: Path, files: Iterable[Path]) -> str:
    """Return `sha256:<hex>` over names (relative to `root`) and contents of `files`."""
    return digest_lines({file.relative_to(root).as_posix(): sha256_file(file) for file in files})


def digest_lines(files: Mapping[str, str]) -> str:
    """Return `sha256:<hex>` over names of files and their digests."""
    lines = sorted(f"{name} {digest}\n" for name, digest in files.items())
    return sha256_bytes("".join(lines).encode())


def digest_folder(path: Path, patterns: Sequence[str] | None = None) -> str:
    """Return `sha256:<hex>` over a folder's files, or those that match a glob of `patterns`."""
    paths = {file for pattern in patterns or ("**/*",) for file in path.glob(pattern)}
    return digest_files(path, (file for file in paths if file.is_file()))
