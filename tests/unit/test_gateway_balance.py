"""Which replica a call goes to: its pool by the key, then who can make it, then who is idle."""

from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier.contract.replica import HeldAdapter, Replica
from services.gateway.balance import LEFT_OUT_SECONDS, STABLE, Balancer, Fleet, pool_of

BASE = "sha256:" + "b" * 64
CAT = ("thor-cat", 1)


def replica(
    name: str, *, pool: str | None = None, ready: bool = True, held: bool = True
) -> Replica:
    state = "ready" if ready else "loading"
    one = HeldAdapter.model_validate(
        {"name": CAT[0], "version": CAT[1], "digest": BASE, "state": state, "default": True}
    )
    return Replica(
        replica=name,
        base=BASE,
        backend="torch",
        engine_digest="e",
        heartbeat=0.0,
        adapters=(one,) if held else (),
        pool=pool,
    )


class Rig:
    """A balancer whose replicas and time are the test's."""

    def __init__(self, *replicas: Replica, **shares: int):
        self.fleet = Fleet(replicas, shares)
        self.now = 0.0
        self.balancer = Balancer(lambda: self.fleet, clock=lambda: self.now)

    def choose(
        self, caller: str = "key", *wanted: tuple[str, int], tried: tuple = ()
    ) -> str | None:
        one = self.balancer.choose(caller, wanted, tried)
        return one.replica if one else None


def test_the_fewest_calls_under_way_decide() -> None:
    rig = Rig(replica("a"), replica("b"), replica("c"))
    with ExitStack() as calls:
        busy = []
        for _ in range(7):
            busy.append(rig.choose())
            calls.enter_context(rig.balancer.under_way(busy[-1]))
        assert sorted(Counter(busy).values()) == [2, 2, 3]
        with rig.balancer.under_way("a"):
            assert rig.choose() != "a"
    assert sum(rig.balancer._under_way.values()) == 0


def test_equals_take_turns() -> None:
    rig = Rig(replica("a"), replica("b"))
    chosen = []
    for _ in range(6):
        chosen.append(rig.choose())
        with rig.balancer.under_way(chosen[-1]):
            pass
    assert Counter(chosen) == {"a": 3, "b": 3}


def test_only_who_holds_the_version_is_asked() -> None:
    rig = Rig(replica("a", ready=False), replica("b"), replica("c", held=False))
    assert {rig.choose("key", CAT) for _ in range(5)} == {"b"}
    assert rig.choose("key", CAT, tried=("b",)) is None
    assert rig.choose("key", ("thor-cat", 2)) is None


def test_one_that_refused_is_left_out_for_a_moment() -> None:
    rig = Rig(replica("a"), replica("b"))
    rig.balancer.leave_out("a")
    assert {rig.choose() for _ in range(3)} == {"b"}
    rig.balancer.leave_out("b")
    assert rig.choose() is not None  # better one of them than none
    rig.now = LEFT_OUT_SECONDS
    with rig.balancer.under_way("b"):
        assert rig.choose() == "a"


def test_silence_of_all_leaves_the_last_ones() -> None:
    rig = Rig(replica("a"))
    assert rig.choose() == "a"
    rig.fleet = Fleet()
    assert rig.choose() == "a"


def test_nothing_is_kept_of_replicas_that_are_gone() -> None:
    rig = Rig()
    for number in range(50):
        rig.fleet = Fleet([replica(f"pod-{number}")])
        name = rig.choose()
        rig.balancer.leave_out(name)
        with rig.balancer.under_way(name):
            pass
    tables = (rig.balancer._turns, rig.balancer._left_out, rig.balancer._under_way)
    assert [len(table) for table in tables] == [1, 1, 1]


def test_a_canary_takes_its_share_of_the_keys_and_they_stay() -> None:
    rig = Rig(replica("s", pool=STABLE), replica("n", pool="next"), next=20)
    first = {f"key-{number}": rig.choose(f"key-{number}", CAT) for number in range(2000)}
    share = Counter(first.values())["n"] / len(first)
    assert share == pytest.approx(0.20, abs=0.03)
    rig.fleet = Fleet(rig.fleet.replicas, {"next": 60})
    more = {key: rig.choose(key, CAT) for key in first}
    assert all(more[key] == "n" for key, where in first.items() if where == "n")
    rig.fleet = Fleet(rig.fleet.replicas, {"next": 100})
    assert {rig.choose(key, CAT) for key in first} == {"n"}
    rig.fleet = Fleet(rig.fleet.replicas, {"next": 0})
    assert {rig.choose(key, CAT) for key in first} == {"s"}


def test_what_a_canary_cannot_make_goes_to_the_stable_ones() -> None:
    rig = Rig(replica("s"), replica("n", pool="next", held=False), next=100)
    assert rig.choose("key", CAT) == "s"
    assert rig.choose("key") == "n"
    rig.fleet = Fleet([replica("n", pool="next")], {})  # and only a canary is left of all
    assert rig.choose("key", CAT) == "n"


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 33), max_size=3),
    st.text(max_size=20),
)
def test_every_key_has_one_pool(shares: dict[str, int], caller: str) -> None:
    pool = pool_of(shares, caller)
    assert pool == pool_of(dict(reversed(shares.items())), caller)
    assert pool == STABLE or shares[pool] > 0
