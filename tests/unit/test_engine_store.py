"""The host tier: versions beside one another, defaults, bounds and loads in the background."""

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from atelier.adapter.low_rank import LoraWeights
from atelier.adapter.package import Package, write_package
from atelier.contract.request import AdapterUse
from atelier.data.manifest import BaseRef
from atelier.errors import AdapterRejected, Unavailable
from services.engine.layout import layout_of
from services.engine.residency import Residency
from services.engine.result import UnknownAdapter
from services.engine.store import AdapterDamaged, AdapterStore
from services.triton.answers import error_code, error_text

BASE = "sha256:" + "0" * 64
BYTES = 2 * 4 * 2 * 8 * 4  # of one adapter below: A and B, two layers at rank 4, width 8, fp32


class Block(nn.Module):
    """Two projections."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k = nn.Linear(8, 8), nn.Linear(8, 8)


def make_store(memory: int = 10**6, *, max_rank: int = 8) -> tuple[AdapterStore, threading.Event]:
    loaded = threading.Event()
    parts = SimpleNamespace(unet=Block(), text_encoder=nn.Module(), text_encoder_2=nn.Module())
    store = AdapterStore(
        layout_of(parts),
        base_digest=BASE,
        max_rank=max_rank,
        dtype=torch.float32,
        memory=memory,
        on_ready=loaded.set,
    )
    return store, loaded


def package(folder: Path, name: str, seed: int = 0, base: str = BASE, rank: int = 4) -> Package:
    random = np.random.default_rng(seed)
    tensors = {
        f"unet.{module}.{part}.weight": random.standard_normal(shape).astype(np.float32)
        for module in ("to_q", "to_k")
        for part, shape in (("lora_A", (rank, 8)), ("lora_B", (8, rank)))
    }
    path = folder / f"{name}-{seed}-{base[-1]}"
    return write_package(path, tensors, name=name, base=BaseRef(id="tiny", digest=base))


def test_versions_lie_beside_one_another_and_the_default_moves_alone(tmp_path: Path) -> None:
    store, _ = make_store()
    first, second = package(tmp_path, "cat", 1), package(tmp_path, "cat", 2)
    store.add(first, 1)
    store.add(second, 2)
    before = store.acquire(AdapterUse("cat"))
    store.default("cat", 2)
    after, explicit = store.acquire(AdapterUse("cat")), store.acquire(AdapterUse("cat", 1))
    assert (before.digest, after.digest) == (first.digest, second.digest)
    assert explicit is before
    assert [(i.version, i.default, i.users) for i in store.list()] == [(1, False, 2), (2, True, 1)]


def test_a_version_never_changes_its_content(tmp_path: Path) -> None:
    store, _ = make_store()
    store.add(package(tmp_path, "cat", 1), 1)
    again = store.add(package(tmp_path, "cat", 1), 1)
    assert len(store.list()) == 1 and again.version == 1
    with pytest.raises(AdapterRejected, match="cat@1: loaded with digest"):
        store.add(package(tmp_path, "cat", 2), 1)


def test_without_a_version_the_newest_replaces(tmp_path: Path) -> None:
    store, _ = make_store()
    pair = LoraWeights(np.ones((2, 8), np.float32), np.ones((8, 2), np.float32), 2.0)
    store.add_tensors("draft", {"unet.to_q": pair})
    held = store.acquire(AdapterUse("draft"))
    info = store.add_tensors("draft", {"unet.to_k": pair})
    assert store.acquire(AdapterUse("draft")).digest == info.digest != held.digest
    assert held.weights is not None  # whoever holds it still may draw
    assert len(store.list()) == 1


def test_removal_leaves_the_rest_a_default(tmp_path: Path) -> None:
    store, _ = make_store()
    for version in (1, 2, 3):
        store.add(package(tmp_path, "cat", version), version)
    store.default("cat", 3)
    held = store.acquire(AdapterUse("cat"))
    store.remove("cat", 3)
    assert held.weights is not None
    assert store.acquire(AdapterUse("cat")).version == 2
    with pytest.raises(UnknownAdapter, match="no version 3 here; use one of 1, 2"):
        store.acquire(AdapterUse("cat", 3))
    with pytest.raises(UnknownAdapter):
        store.remove("cat", 3)
    with pytest.raises(UnknownAdapter):
        store.default("cat", 3)


def test_an_unknown_name_is_told_the_nearest(tmp_path: Path) -> None:
    store, _ = make_store()
    store.add(package(tmp_path, "thor-cat"), 1)
    with pytest.raises(UnknownAdapter, match="did you mean thor-cat"):
        store.acquire(AdapterUse("thor-cap"))


def test_another_base_is_refused(tmp_path: Path) -> None:
    store, _ = make_store()
    with pytest.raises(AdapterRejected, match="train the adapter on the base of this engine"):
        store.add(package(tmp_path, "cat", base="sha256:" + "1" * 64))
    assert store.list() == ()


def test_memory_is_bounded_and_what_was_dropped_comes_back_in_the_background(
    tmp_path: Path,
) -> None:
    store, loaded = make_store(memory=2 * BYTES)
    for name in ("a", "b", "c"):
        store.add(package(tmp_path, name), 1)
    assert {i.name: i.resident for i in store.list()} == {"a": False, "b": True, "c": True}
    assert store.nbytes == 2 * BYTES
    entry = store.acquire(AdapterUse("a"))
    assert loaded.wait(10)
    assert store.ready(entry)
    assert {i.name: i.resident for i in store.list()} == {"a": True, "b": False, "c": True}
    store.close()


def test_memory_in_use_is_never_dropped(tmp_path: Path) -> None:
    store, _ = make_store(memory=2 * BYTES)
    for name in ("a", "b"):
        store.add(package(tmp_path, name), 1)
        store.acquire(AdapterUse(name))
    with pytest.raises(Unavailable, match="host_memory"):
        store.add(package(tmp_path, "c"), 1)


def test_a_package_that_changed_on_disk_is_not_loaded_again(tmp_path: Path) -> None:
    store, loaded = make_store(memory=BYTES)
    first = package(tmp_path, "a")
    store.add(first, 1)
    store.add(package(tmp_path, "b"), 1)  # drops a
    (first.path / "adapter.safetensors").write_bytes(b"\x00" * 64)
    entry = store.acquire(AdapterUse("a", 1))
    assert loaded.wait(10)
    with pytest.raises(AdapterRejected):
        store.ready(entry)
    store.close()


def test_a_newcomer_that_cannot_fit_empties_nothing(tmp_path: Path) -> None:
    """It is tried again and again; each time it would push out all others for nothing."""
    store, _ = make_store(memory=2 * BYTES)
    for name in ("a", "b"):
        store.add(package(tmp_path, name), 1)
    wide = package(tmp_path, "wide", rank=8)
    held = [store.acquire(AdapterUse("a"))]  # so that half of the memory is in use
    with pytest.raises(Unavailable, match="host_memory"):
        store.add(wide, 1)
    assert [i.resident for i in store.list()] == [True, True]
    store.release(held.pop())
    store.add(wide, 1)
    assert {i.name: i.resident for i in store.list()} == {"a": False, "b": False, "wide": True}


def test_a_known_adapter_is_read_when_somebody_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, loaded = make_store()
    made = {name: package(tmp_path, name) for name in ("a", "b", "c")}
    opened = count_opened(monkeypatch)
    for name, one in made.items():
        store.restore(name, 1, one.digest, str(one.path))
    assert opened == [] and store.nbytes == 0
    assert {i.name: (i.default, i.resident) for i in store.list()} == dict.fromkeys(
        made, (True, False)
    )
    entry = store.acquire(AdapterUse("b"))
    assert entry.rank == 4  # before it is loaded: a request is refused at once where ranks add up
    assert loaded.wait(10)
    assert store.ready(entry) and entry.weights is not None and entry.mask
    assert opened == [made["b"].path.name]
    store.close()


def count_opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that are opened as packages, byte for byte, from now on."""
    opened: list[str] = []
    real = Package.open.__func__  # type: ignore[attr-defined]

    def counted(cls: type[Package], path: Path, *, digest: str | None = None) -> Package:
        opened.append(path.name)
        made: Package = real(cls, path, digest=digest)
        return made

    monkeypatch.setattr(Package, "open", classmethod(counted))
    return opened


@pytest.mark.parametrize("file", ["adapter.safetensors", "manifest.json"])
def test_a_known_adapter_that_is_damaged_gives_an_error_and_no_weights(
    tmp_path: Path, file: str
) -> None:
    store, loaded = make_store()
    made = package(tmp_path, "a")
    store.restore("a", 1, made.digest, str(made.path))
    data = (made.path / file).read_bytes()
    (made.path / file).write_bytes(data[:-3] + b"\x00" + data[-2:])
    with pytest.raises(AdapterDamaged, match="adapter a@1: the package is damaged") as caught:
        entry = store.acquire(AdapterUse("a"))
        assert loaded.wait(10)
        assert entry.weights is None
        store.ready(entry)
    assert caught.value.retry_after == 5.0
    assert error_code(caught.value) == "UNAVAILABLE"  # nothing is wrong with the request
    assert "(retry after 5.0 s)" in error_text(caught.value)
    damaged = store.take_damaged()
    assert list(damaged) == [("a", 1)] and file in damaged["a", 1]
    assert store.take_damaged() == {}
    (made.path / file).write_bytes(data)  # it is there again, and asked for again
    loaded.clear()
    entry = store.acquire(AdapterUse("a"))
    assert loaded.wait(10)
    assert store.ready(entry)
    store.close()


def test_memory_that_is_full_for_a_moment_is_no_damage(tmp_path: Path) -> None:
    store, loaded = make_store(memory=BYTES)
    made = package(tmp_path, "a")
    store.restore("a", 1, made.digest, str(made.path))
    store.add(package(tmp_path, "b"), 1)
    store.acquire(AdapterUse("b"))
    entry = store.acquire(AdapterUse("a"))
    assert loaded.wait(10)
    with pytest.raises(Unavailable, match="host_memory"):
        store.ready(entry)
    assert store.take_damaged() == {}
    store.close()


sizes = st.integers(1, 50)


@given(st.lists(st.tuples(st.integers(0, 9), sizes, st.booleans()), max_size=40))
def test_room_is_made_by_the_longest_unused_and_only_where_it_helps(
    steps: list[tuple[int, int, bool]],
) -> None:
    residency: Residency[int] = Residency(100)
    held: dict[int, int] = {}  # the longest unused first
    for key, size, in_use in steps:
        held.pop(key, None)
        residency.drop(key)
        busy = {one for one in held if in_use and one % 2}
        before = residency.used
        assert before == sum(held.values()) <= 100
        try:
            dropped = residency.room_for(size, lambda one, busy=busy: one not in busy)
        except Unavailable:
            assert sum(held[one] for one in busy) + size > 100
            assert residency.used == before
            continue
        idle = [one for one in held if one not in busy]
        assert dropped == idle[: len(dropped)]
        rest = before - sum(held[one] for one in dropped)
        assert rest + size <= 100
        assert not dropped or rest + held[dropped[-1]] + size > 100
        for one in dropped:
            residency.drop(one)
            held.pop(one)
        residency.add(key, size)
        held[key] = size
