"""A sharded model on disk: the head in a file, its shards in a folder beside it."""

import shutil
from pathlib import Path
from typing import Generic

from atelier.contract.shards import ModelT, ShardPool
from atelier.files import write_atomic

ATTEMPTS = 3  # readings of a model that is being written

Stamp = tuple[int, int, int]  # of a file: change time, size, inode


class ShardedFile(Generic[ModelT]):
    """A file with one writing process and any number of readers.

    Shards are written before the head that names them, and removed after it. So a reader finds the
    shards of the head that it has read, or a newer head. A file with the same change time, size and
    inode is not read again.
    """

    def __init__(self, path: Path, kind: type[ModelT], pool: ShardPool[ModelT] | None = None):
        """Open a file lazily; files with the same `pool` share equal shards."""
        self.path = path
        self._kind = kind
        self._pool = pool or ShardPool(kind)
        self._known: tuple[Stamp, ModelT] | None = None
        self._there: set[str] | None = None  # digests of the shards on the disk, once written

    def read(self) -> ModelT:
        """Read the model; the same object is returned until the file changes.

        Raises FileNotFoundError if there is none, OSError or ValueError if it is unreadable.
        """
        for attempt in range(ATTEMPTS):
            stamp = _stamp(self.path)
            if self._known is not None and self._known[0] == stamp:
                return self._known[1]
            head = self._kind.model_validate_json(self.path.read_bytes())
            try:
                model = self._pool.join(head, lambda digest: self._shard(digest).read_bytes())
            except FileNotFoundError as error:
                if attempt + 1 == ATTEMPTS:
                    raise ValueError(f"{self.path}: shard {error.filename} is missing") from error
                continue  # a newer head was written meanwhile
            self._known = (stamp, model)
            break
        assert self._known is not None
        return self._known[1]

    def head(self) -> ModelT:
        """Read the head alone: its time does not depend on the number of shards.

        The entries are missing if they are in shards. Raises as `read` does.
        """
        return self._kind.model_validate_json(self.path.read_bytes())

    def write_head(self, head: ModelT) -> None:
        """Replace the head that `head` returned, with other values; its shards stay."""
        write_atomic(self.path, head.model_dump_json(indent=2))

    def write(self, model: ModelT) -> None:
        """Replace the model, writing only the shards that have changed."""
        head, texts = model.split()
        if self._there is None:
            self._there = {file.stem for file in self._folder.glob("*.json")}
        for digest in texts.keys() - self._there:
            write_atomic(self._shard(digest), texts[digest])
        self._there |= texts.keys()
        write_atomic(self.path, head.model_dump_json(indent=2))
        self._known = (_stamp(self.path), model)
        for digest in self._there - texts.keys():
            self._shard(digest).unlink(missing_ok=True)
        self._there &= texts.keys()

    def remove(self) -> None:
        """Delete head and shards."""
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._there = self._known = None

    @property
    def _folder(self) -> Path:
        return self.path.with_suffix("")

    def _shard(self, digest: str) -> Path:
        return self._folder / f"{digest}.json"


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)
