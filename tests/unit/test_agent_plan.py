"""The agent's decisions: no file, no server, no registry."""

from hypothesis import given
from hypothesis import strategies as st

from atelier.contract.replica import HeldAdapter, Replica
from atelier.contract.wanted import Wanted, WantedAdapter
from atelier.data.names import hex_of
from atelier.data.release import Canary, Pin, Release
from services.agent.plan import KEPT, SERVED
from tests.agent import plan, report

BASE = "sha256:" + "b" * 64
OTHER_BASE = "sha256:" + "c" * 64


def digest(version: int) -> str:
    return f"sha256:{version:064x}"


def released(*versions: int, adapter: str = "thor-cat", base: str = BASE) -> Release:
    """A release that served `versions` one after the other."""
    first, *rest = versions
    release = Release(adapter=adapter, base=base, version=first, digest=digest(first))
    for version in rest:
        release = release.with_version(Pin(version=version, digest=digest(version)), "newer")
    return release


def loaded(*states: tuple[int, str], adapter: str = "thor-cat", base: str = BASE) -> Replica:
    held = tuple(
        HeldAdapter.model_validate(
            {"name": adapter, "version": version, "digest": digest(version), "state": state}
        )
        for version, state in states
    )
    return Replica(
        replica="r", base=base, backend="torch", engine_digest="e", heartbeat=0.0, adapters=held
    )


def asked(*versions: int, default: int, adapter: str = "thor-cat") -> Wanted:
    adapters = tuple(
        WantedAdapter(
            name=adapter,
            version=version,
            digest=digest(version),
            path=f"packages/{hex_of(digest(version))}",
            default=version == default,
        )
        for version in versions
    )
    return Wanted(adapters=adapters, generation=7)


def versions_of(wanted: tuple[WantedAdapter, ...]) -> list[int]:
    return [one.version for one in wanted]


def default_of(wanted: tuple[WantedAdapter, ...], name: str = "thor-cat") -> int | None:
    found = Wanted(adapters=wanted).default(name)
    return found.version if found else None


def make(release: Release, on_volume: set[int], was: Wanted, engine: Replica):
    return plan(
        {release.adapter: release},
        on_volume={digest(version) for version in on_volume},
        wanted=was,
        loaded=engine,
    )


def test_a_new_version_loads_beside_the_old_one_before_it_becomes_the_default() -> None:
    release = released(1, 2)
    fetching = make(release, {1}, asked(1, default=1), loaded((1, "ready")))
    assert [one.version for one in fetching.fetch] == [2]
    assert (versions_of(fetching.wanted), default_of(fetching.wanted)) == ([1], 1)

    arrived = make(release, {1, 2}, asked(1, default=1), loaded((1, "ready")))
    assert arrived.fetch == ()
    assert sorted(versions_of(arrived.wanted)) == [1, 2]
    assert default_of(arrived.wanted) == 1

    was = Wanted(adapters=arrived.wanted)
    switched = make(release, {1, 2}, was, loaded((1, "ready"), (2, "ready")))
    assert default_of(switched.wanted) == 2
    assert sorted(versions_of(switched.wanted)) == [1, 2]  # going back needs nobody


def test_going_back_switches_at_once_and_fetches_nothing() -> None:
    release = released(1, 2).rolled_back()
    made = make(release, {1, 2}, asked(1, 2, default=2), loaded((1, "ready"), (2, "ready")))
    assert (default_of(made.wanted), made.fetch, made.prune) == (1, (), ())


def test_a_version_that_the_engine_refuses_never_becomes_the_default() -> None:
    made = make(released(1, 2), {1, 2}, asked(1, 2, default=1), loaded((1, "ready"), (2, "failed")))
    assert default_of(made.wanted) == 1
    assert 2 in versions_of(made.wanted)  # kept, so that its failure stays to be seen


def test_the_last_good_version_stays_though_the_release_has_forgotten_it() -> None:
    release = released(1, 2, 3, 4, 5)  # keeps 5, 4, 3; only 1 is on the volume
    made = make(release, {1}, asked(1, default=1), loaded((1, "ready")))
    assert (versions_of(made.wanted), default_of(made.wanted)) == ([1], 1)
    assert made.prune == ()
    assert [one.version for one in made.fetch] == [5, 4, 3]  # the serving version first


def test_a_first_version_is_the_default_while_it_loads() -> None:
    made = make(released(1), {1}, Wanted(), loaded())
    assert default_of(made.wanted) == 1


def test_what_the_engine_holds_serves_on_while_its_damaged_package_is_fetched_anew() -> None:
    was = asked(1, 2, default=2)
    made = make(released(1, 2), {1}, was, loaded((1, "ready"), (2, "ready")))
    assert sorted(versions_of(made.wanted)) == [1, 2]
    assert default_of(made.wanted) == 2
    assert [one.version for one in made.fetch] == [2]


def test_a_canary_is_at_hand_but_not_the_default() -> None:
    release = released(1).with_canary(Canary(version=2, digest=digest(2), percent=10), "try")
    made = make(release, {1, 2}, asked(1, default=1), loaded((1, "ready"), (2, "ready")))
    assert (sorted(versions_of(made.wanted)), default_of(made.wanted)) == ([1, 2], 1)


def test_a_release_for_another_base_is_ignored_and_told() -> None:
    made = make(released(1, base=OTHER_BASE), set(), Wanted(), loaded())
    assert (made.wanted, made.fetch) == ((), ())
    assert made.ignored == (
        f"release thor-cat needs base {OTHER_BASE} and its own VAE, "
        f"but this replica serves base {BASE} and its own VAE",
    )
    told = report(loaded(), made, errors={}, problems=())
    assert told.error == made.ignored[0]


def test_a_release_that_was_judged_with_another_vae_is_ignored() -> None:
    judged = released(1).model_copy(update={"vae": "sha256:" + "5" * 64})
    made = make(judged, {1}, asked(1, default=1), loaded((1, "ready")))
    assert made.wanted == ()
    assert "VAE sha256:555" in made.ignored[0]


def test_a_retired_adapter_leaves_and_is_pruned_only_when_the_engine_let_go() -> None:
    def retired(was: Wanted, engine: Replica):
        return plan({}, on_volume={digest(1)}, wanted=was, loaded=engine)

    first = retired(asked(1, default=1), loaded((1, "ready")))
    assert (first.wanted, first.prune) == ((), ())
    assert retired(Wanted(), loaded((1, "ready"))).prune == ()
    assert retired(Wanted(), loaded()).prune == (digest(1),)


def test_old_versions_are_pruned_once_nobody_names_them() -> None:
    release = released(1, 2, 3, 4)
    states = tuple((version, "ready") for version in (2, 3, 4))
    was = asked(2, 3, 4, default=4)
    held_too = make(release, {1, 2, 3, 4}, was, loaded(*states, (1, "ready")))
    assert held_too.prune == ()
    let_go = make(release, {1, 2, 3, 4}, was, loaded(*states))
    assert let_go.prune == (digest(1),)


def test_an_unreadable_release_keeps_what_was_asked_for_it() -> None:
    was = asked(1, default=1)
    made = plan(
        {},
        on_volume={digest(1)},
        wanted=was,
        loaded=loaded((1, "ready")),
        unreadable=("thor-cat",),
    )
    assert (made.wanted, made.prune) == (was.adapters, ())


def told_of(version: int) -> dict[str, str]:
    return {digest(version): f"fetch thor-cat@{version}: away"}


def test_what_never_arrived_is_reported_with_its_reason() -> None:
    engine = loaded((1, "ready"))
    made = make(released(1, 2, 3), {1}, asked(1, default=1), engine)
    told = report(engine, made, errors=told_of(3), problems=())
    states = {one.version: (one.state, one.error) for one in told.adapters}
    assert states == {
        1: ("ready", None),
        2: ("loading", None),
        3: ("failed", "fetch thor-cat@3: away"),
    }
    assert told.error == "fetch thor-cat@3: away"
    passing = report(engine, made, errors=told_of(3), temporary={digest(3)}, problems=())
    assert {one.version: one.state for one in passing.adapters}[3] == "loading"


def test_helm_rollback_there_and_back_needs_nobody() -> None:
    """It writes the old release again, which knows nothing of the version that it leaves."""
    old, new = released(1), released(1, 2)
    both = loaded((1, "ready"), (2, "ready"))
    back = make(old, {1, 2}, asked(2, 1, default=2), both)
    assert (default_of(back.wanted), sorted(versions_of(back.wanted))) == (1, [1, 2])
    assert (back.fetch, back.prune) == ((), ())
    forth = make(new, {1, 2}, Wanted(adapters=back.wanted), both)
    assert (default_of(forth.wanted), sorted(versions_of(forth.wanted))) == (2, [1, 2])
    assert (forth.fetch, forth.prune) == ((), ())


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12))
def test_whatever_helm_writes_the_last_two_served_stay_and_little_else(moves: list[int]) -> None:
    """Releases of version N as `helm upgrade` and `helm rollback` write them, in any order: each
    knows the versions before it. What was served one step ago is never fetched again."""
    was, before = Wanted(), None
    for version in moves:
        release = released(*range(1, version + 1))
        on_volume = {one.version for one in was.adapters} | set(range(1, version + 1))
        engine = loaded(*((one, "ready") for one in on_volume))
        made = make(release, on_volume, was, engine)
        held = versions_of(made.wanted)
        assert default_of(made.wanted) == version
        assert len(held) == len(set(held)) <= KEPT + SERVED
        if before is not None and not (before < version and before <= version - KEPT):
            assert before in held  # a release that lists it as long past has let it go
        was, before = Wanted(adapters=made.wanted, generation=was.generation + 1), version


def test_what_a_release_lists_as_its_past_has_had_its_time() -> None:
    states = tuple((version, "ready") for version in (1, 2, 3, 4))
    made = make(released(1, 2, 3, 4), {1, 2, 3, 4}, asked(3, 2, 1, default=3), loaded(*states))
    assert versions_of(made.wanted) == [4, 3, 2]


def test_a_version_that_is_not_at_hand_is_not_kept_for_later() -> None:
    made = make(released(1), {1}, asked(2, 1, default=2), loaded((1, "ready")))
    assert versions_of(made.wanted) == [1]
