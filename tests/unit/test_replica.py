"""An adapter is ready when every replica that lives can serve exactly that digest."""

from pathlib import Path

from atelier.contract.replica import HeldAdapter, Replica, ReplicaFolder, ready

BASE = "sha256:" + "0" * 64
ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
NOW = 1000.0


def replica(name: str, *held: HeldAdapter, beat: float = NOW) -> Replica:
    return Replica(
        replica=name, base=BASE, backend="torch", engine_digest="e", heartbeat=beat, adapters=held
    )


def held(digest: str, state: str = "ready", name: str = "cat") -> HeldAdapter:
    return HeldAdapter.model_validate(
        {"name": name, "version": 1, "digest": digest, "state": state}
    )


def is_ready(*replicas: Replica) -> bool:
    return ready(replicas, "cat", TWO, now=NOW + 1)


def test_all_live_replicas_must_hold_it() -> None:
    assert is_ready(replica("a", held(ONE), held(TWO)), replica("b", held(TWO)))
    assert not is_ready(replica("a", held(TWO)), replica("b", held(ONE)))
    assert not is_ready(replica("a", held(TWO)), replica("b", held(TWO, "loading")))
    assert not is_ready(replica("a", held(TWO, "failed")))
    assert not is_ready(replica("a", held(TWO, name="dog")))


def test_the_dead_do_not_count_and_nobody_is_not_ready() -> None:
    dead = replica("dead", held(ONE), beat=NOW - 60)
    assert is_ready(replica("a", held(TWO)), dead)
    assert not is_ready(dead)
    assert not is_ready()


def test_a_ready_entry_counts_beside_a_failed_one_of_the_same_digest() -> None:
    assert is_ready(replica("a", held(TWO, "failed"), held(TWO)))


def test_the_folder_passes_over_what_it_cannot_read(tmp_path: Path) -> None:
    folder = ReplicaFolder(tmp_path / "replicas")
    assert folder.list() == {}
    report = replica("r0", held(ONE))
    folder.put(report)
    (folder.path / "broken.json").write_text("{")
    assert folder.list() == {"r0": report}
    folder.remove("r0")
    folder.remove("r0")
    assert folder.list() == {}


def test_an_engines_own_report_is_read_with_what_else_it_tells() -> None:
    text = replica("r0", held(ONE)).model_dump_json().replace("{", '{"pid": 7, "new": 1,', 1)
    assert Replica.model_validate_json(text).adapters == (held(ONE),)
