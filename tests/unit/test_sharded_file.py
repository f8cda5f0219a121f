"""A sharded model on a disk: what a change writes, what a reader reads, and what damage does."""

from pathlib import Path

import pytest

from atelier.contract.replica import Replica, ReplicaFolder
from atelier.contract.sharded_file import ShardedFile
from tests.unit.test_shards import fleet, held


@pytest.fixture
def file(tmp_path: Path) -> ShardedFile[Replica]:
    return ShardedFile(tmp_path / "loaded.json", Replica)


def files(folder: Path) -> dict[str, int]:
    """Every file below a folder; its inode is another one once it was written again."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_ino for path in found}


def with_version(replica: Replica, name: str, version: int) -> Replica:
    adapters = replica.adapters.replaced({name: (held(name, version),)})
    return replica.model_copy(update={"adapters": adapters})


def test_a_heartbeat_writes_the_head_and_a_change_one_shard(
    file: ShardedFile[Replica], tmp_path: Path
) -> None:
    replica = fleet(1000)
    file.write(replica)
    before = files(tmp_path)
    assert len(before) == 1 + len(replica.adapters.sharded.parts)
    file.write(replica.model_copy(update={"heartbeat": 1.0}))
    after = files(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"loaded.json"}
    file.write(with_version(replica, "adapter-with-a-name-7", 9))
    assert len(files(tmp_path).keys() - after.keys()) == 1
    assert len(after.keys() - files(tmp_path).keys()) == 1  # and the one before is gone
    another = ShardedFile(tmp_path / "loaded.json", Replica)  # as after a restart
    another.write(replica)
    assert files(tmp_path).keys() == before.keys()


def test_what_has_not_changed_is_the_same_object(file: ShardedFile[Replica]) -> None:
    replica = fleet(1000)
    file.write(replica)
    assert file.read() is replica
    reader = ShardedFile(file.path, Replica)
    first = reader.read()
    assert first == replica and reader.read() is first
    file.write(with_version(replica, "adapter-with-a-name-7", 9))
    second = reader.read()
    assert second.adapters.changed(first.adapters) == {"adapter-with-a-name-7"}
    parts = zip(first.adapters.sharded.parts, second.adapters.sharded.parts, strict=True)
    assert sum(one is not other for one, other in parts) == 1


def test_a_reader_that_is_overtaken_finds_the_newer_one(
    file: ShardedFile[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its head and its shards it is written anew, and its shards are removed."""
    old = fleet(1000)
    new = with_version(old, "adapter-with-a-name-7", 9)
    file.write(old)
    reader, real, reads = ShardedFile(file.path, Replica), Path.read_bytes, list[Path]()

    def overtaken(path: Path) -> bytes:
        data = real(path)
        reads.append(path)
        if len(reads) == 1:
            file.write(new)
        return data

    monkeypatch.setattr(Path, "read_bytes", overtaken)
    assert reader.read() == new
    assert reads.count(file.path) == 2


def test_damage_is_told_and_costs_a_reader_only_that_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = ReplicaFolder(tmp_path)
    for name, adapters in (("pod-a", 900), ("pod-b", 1000)):
        folder.put(fleet(adapters).model_copy(update={"replica": name}))
    shard = next((tmp_path / "pod-a").iterdir())
    shard.write_bytes(b"{}")
    reader = ReplicaFolder(tmp_path)
    assert list(reader.list()) == list(reader.list()) == ["pod-b"]
    assert caplog.text.count("pod-a.json: is not a report, so its process counts as absent") == 1
    shard.unlink()
    assert list(reader.list()) == ["pod-b"]
    assert "is missing" in caplog.text
    folder.remove("pod-a")
    folder.remove("pod-b")
    assert files(tmp_path) == {}
