"""Entries by adapter name in shards: any mapping, and the cost of a change."""

import json
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from atelier.contract.gateway import Gateway, Routed
from atelier.contract.replica import HeldAdapter, Replica
from atelier.contract.shards import PER_SHARD, ShardPool, Shards, Versions

ANNOTATIONS = 256 * 1024  # bytes that Kubernetes takes of one object's annotations together
names = st.integers(0, 300).map(lambda number: f"adapter-{number}")


@given(
    st.dictionaries(names, st.integers()),
    st.lists(st.dictionaries(names, st.none() | st.integers(), max_size=40), max_size=8),
)
def test_it_is_a_mapping_whatever_changes(start: dict, changes: list[dict]) -> None:
    shards, plain = Shards(start), dict(start)
    for change in changes:
        before, was = shards, dict(plain)
        shards = shards.replaced(change)
        plain |= {name: value for name, value in change.items() if value is not None}
        plain = {n: value for n, value in plain.items() if change.get(n, value) is not None}
        assert shards == plain and len(shards) == len(plain)
        assert before == was  # nobody's mapping changes under him
        assert {name: shards[name] for name in plain} == plain
        differing = {n for n in {*was, *plain} if was.get(n) != plain.get(n)}
        assert shards.changed(before) == before.changed(shards) == differing
        assert (shards is before) == (not differing)


def test_a_shard_holds_few_names_however_many_there_are() -> None:
    shards: Shards[int] = Shards()
    for number in range(3000):
        shards = shards.replaced({f"adapter-{number}": number})
        assert len(shards) <= PER_SHARD * len(shards.parts)
    assert len(shards.parts) == 64 and max(map(len, shards.parts)) < 2 * PER_SHARD
    shards = shards.replaced({f"adapter-{number}": None for number in range(2990)})
    assert (len(shards), len(shards.parts)) == (10, 1)


def held(name: str, version: int, **more: object) -> HeldAdapter:
    digest = f"sha256:{name:0>32}{version:032x}".replace("-", "0")
    digest = "sha256:" + digest.removeprefix("sha256:").encode().hex()[-64:]
    return HeldAdapter.model_validate(
        {"name": name, "version": version, "digest": digest, "state": "ready", **more}
    )


def fleet(adapters: int = 10_000, versions: int = 3, **more: object) -> Replica:
    """A replica with that many adapters, the newest version the default."""
    found = (
        held(f"adapter-with-a-name-{number}", version, default=version == versions, **more)
        for number in range(adapters)
        for version in range(1, versions + 1)
    )
    return Replica(
        replica="pod-a",
        base="sha256:" + "b" * 64,
        backend="torch",
        engine_digest="e",
        heartbeat=0.0,
        adapters=found,
    )


def test_versions_are_found_by_adapter_and_equal_any_sequence_of_them() -> None:
    one, two, other = held("cat", 1), held("cat", 2), held("dog", 1)
    versions = Versions([one, other, two])
    assert versions.named("cat") == (one, two) and versions.named("emu") == ()
    assert versions == [one, two, other] == list(versions) and len(versions) == 3
    assert versions != [two, one, other]
    assert (versions[0], versions[-1]) == (one, other)
    with pytest.raises(IndexError):
        versions[3]
    assert versions.replaced({"cat": (), "dog": (other,)}) == [other]
    assert versions.replaced({"cat": (one, two)}) is versions


def test_a_model_of_few_adapters_is_one_text_as_it_always_was() -> None:
    replica = fleet(adapters=3)
    head, texts = replica.split()
    assert texts == {} and head is replica
    plain = json.loads(replica.model_dump_json())
    assert [one["version"] for one in plain["adapters"]] == [1, 2, 3] * 3
    assert Replica.model_validate_json(replica.model_dump_json()) == replica
    with pytest.raises(ValidationError, match=r"adapters\.0\.state"):
        Replica.model_validate({**plain, "adapters": [{**plain["adapters"][0], "state": "x"}]})


@pytest.mark.parametrize(
    "replica",
    [fleet(), fleet(versions=5, error="x" * 500)],
    ids=["three versions", "five, and each has failed"],
)
def test_ten_thousand_adapters_fit_what_kubernetes_takes(replica: Replica) -> None:
    head, texts = replica.split()
    heartbeat = head.model_dump_json(exclude_defaults=True)
    assert len(heartbeat) < 8 * 1024
    assert max(map(len, texts.values())) < ANNOTATIONS
    read = ShardPool(Replica).join(Replica.model_validate_json(heartbeat), texts.__getitem__)
    assert read == replica and len(read.adapters) == len(replica.adapters)


def test_a_change_of_one_adapter_is_one_new_text_and_no_other_is_read() -> None:
    replica, pool, asked = fleet(1000), ShardPool(Replica), list[str]()
    head, texts = replica.split()

    def text(digest: str) -> bytes:
        asked.append(digest)
        return texts[digest]

    read = pool.join(head, text)
    assert sorted(asked) == sorted(texts)
    name = "adapter-with-a-name-7"
    newer = (*replica.adapters.named(name), held(name, 4))
    changed = replica.model_copy(update={"adapters": replica.adapters.replaced({name: newer})})
    new_head, new_texts = changed.split()
    assert len(new_texts.keys() - texts.keys()) == 1
    texts |= new_texts
    asked.clear()
    again = pool.join(new_head, text)
    assert set(asked) == new_texts.keys() - set(head.shards) and len(asked) == 1
    assert again == changed and again.adapters.changed(read.adapters) == {name}


def test_replicas_that_hold_the_same_share_what_was_read() -> None:
    pool, reads = ShardPool(Replica), list[str]()
    replicas = [fleet(1000).model_copy(update={"replica": f"pod-{number}"}) for number in range(10)]
    read = []
    for one in replicas:
        head, texts = one.split()
        read.append(
            pool.join(head, lambda digest, texts=texts: reads.append(digest) or texts[digest])
        )
    assert len(reads) == len(read[0].adapters.sharded.parts)
    assert read[0].adapters.changed(read[9].adapters) == set()


def test_a_shard_that_is_another_is_refused() -> None:
    head, texts = fleet(100).split()
    digest = next(iter(texts))
    texts[digest] = texts[digest].replace(b"ready", b"faked")
    with pytest.raises(ValueError, match=f"shard {digest}: has another digest"):
        ShardPool(Replica).join(head, texts.__getitem__)


def test_a_gateways_report_of_ten_thousand_adapters_fits_too() -> None:
    one = "sha256:" + "1" * 64
    routes = {f"adapter-with-a-name-{n}": Routed(serving=one, canary=one) for n in range(10_000)}
    gateway = Gateway(gateway="gateway-a", heartbeat=1.0, routes=routes)
    head, texts = gateway.split()
    heartbeat = head.model_dump_json(exclude_defaults=True)
    assert len(heartbeat) < 8 * 1024 and max(map(len, texts.values())) < ANNOTATIONS
    read = ShardPool(Gateway).join(Gateway.model_validate_json(heartbeat), texts.__getitem__)
    assert read == gateway


def test_the_text_of_a_shard_is_the_same_whatever_came_first() -> None:
    class Numbers(Gateway):
        entries: ClassVar = "routes"
        shard: ClassVar = TypeAdapter(dict[str, Routed])

    found = {f"adapter-{number}": Routed() for number in range(200)}
    one = Numbers(gateway="g", heartbeat=0.0, routes=found)
    other = Numbers(gateway="g", heartbeat=0.0, routes=dict(reversed(found.items())))
    assert one.split()[1] == other.split()[1]
