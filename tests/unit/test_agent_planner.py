"""The agent's planner: as if planned from nothing each round, at the cost of what changed."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from atelier.contract.replica import HeldAdapter, Replica
from atelier.contract.shards import Shards
from atelier.contract.wanted import Wanted
from atelier.data.release import Pin, Release
from services.agent.plan import Named, PlanInputs, Planner, RoundPlan
from services.agent.reporting import ReplicaReport
from tests.agent import plan, report

BASE, OTHER = "sha256:" + "b" * 64, "sha256:" + "c" * 64
NAMES = ("cat", "dog", "emu")


def digest(name: str, version: int) -> str:
    return f"sha256:{NAMES.index(name) + 1:032x}{version:032x}"


def release(name: str, *versions: int, base: str = BASE) -> Release:
    """A release that served `versions` one after the other."""
    first, *rest = versions
    made = Release(adapter=name, base=base, version=first, digest=digest(name, first))
    for version in rest:
        made = made.with_version(Pin(version=version, digest=digest(name, version)), "newer")
    return made


def engine(*held: tuple[str, int, str], base: str = BASE) -> Replica:
    adapters = tuple(
        HeldAdapter.model_validate(
            {"name": name, "version": version, "digest": digest(name, version), "state": state}
        )
        for name, version, state in held
    )
    return Replica(
        replica="r", base=base, backend="torch", engine_digest="e", heartbeat=0.0, adapters=adapters
    )


versions = st.lists(st.integers(1, 4), min_size=1, max_size=4)
states = st.sampled_from(("ready", "failed", "loading"))
pins = st.tuples(st.sampled_from(NAMES), st.integers(1, 4))
steps = st.one_of(
    st.tuples(st.just("release"), st.sampled_from(NAMES), versions),
    st.tuples(st.just("other base"), st.sampled_from(NAMES), versions),
    st.tuples(st.just("retire"), st.sampled_from(NAMES)),
    st.tuples(st.just("unreadable"), st.sampled_from(NAMES)),
    st.tuples(st.just("volume"), st.frozensets(pins, max_size=8)),
    st.tuples(st.just("refused"), st.frozensets(pins, max_size=2)),
    st.tuples(
        st.just("engine"), st.dictionaries(pins, st.sampled_from(("ready", "failed", "loading")))
    ),
    st.tuples(st.just("engine's base"), st.sampled_from((BASE, OTHER))),
    st.tuples(st.just("problem"), pins, st.booleans()),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, min_size=1, max_size=12))
def test_round_after_round_it_plans_and_reports_as_from_nothing(moves: list[tuple]) -> None:
    planner, reporter = Planner(), ReplicaReport()
    known, problems, passing = PlanInputs(loaded=engine()), dict[str, str](), set[str]()
    for kind, *given_ in moves:
        known = moved(known, kind, *given_)
        if kind == "problem":
            (name, version), passes = given_
            problems[digest(name, version)] = f"{name}@{version} does not come"
            if passes:
                passing.add(digest(name, version))
        made = planner.plan(known)
        anew = plan(
            known.releases,
            on_volume=known.on_volume,
            wanted=known.wanted,
            loaded=known.loaded,
            unreadable=known.unreadable,
            refused=known.refused,
        )
        assert made == anew
        told = reporter.update(
            known.loaded, made, errors=problems, temporary=frozenset(passing), problems=()
        )
        assert told == report(known.loaded, anew, errors=problems, temporary=passing, problems=())
        known = replace(known, wanted=Wanted(adapters=made.wanted))  # as the agent writes it


def moved(known: PlanInputs, kind: str, *given_) -> PlanInputs:
    """What is known after a step."""
    if kind in ("release", "other base"):
        name, found = given_
        made = release(name, *found, base=OTHER if kind == "other base" else BASE)
        unreadable = frozenset(known.unreadable) - {name}
        return replace(known, releases=known.releases.replaced({name: made}), unreadable=unreadable)
    if kind in ("retire", "unreadable"):
        releases = known.releases.replaced({given_[0]: None})
        unreadable = frozenset(known.unreadable) - {given_[0]}
        unreadable |= {given_[0]} if kind == "unreadable" else set()
        return replace(known, releases=releases, unreadable=unreadable)
    if kind == "volume":
        return replace(known, on_volume=Shards({digest(*pin): True for pin in given_[0]}))
    if kind == "refused":
        return replace(known, refused=frozenset(digest(*pin) for pin in given_[0]))
    if kind == "engine":
        held = [(*pin, state) for pin, state in given_[0].items()]
        return replace(known, loaded=engine(*held, base=known.loaded.base))
    if kind == "engine's base":
        return replace(known, loaded=known.loaded.model_copy(update={"base": given_[0]}))
    return known


def fleet(count: int) -> PlanInputs:
    """That many adapters, each served in one version."""
    names = [f"adapter-{number}" for number in range(count)]
    pinned = {name: f"sha256:{number:064x}" for number, name in enumerate(names)}
    held = tuple(
        HeldAdapter(name=name, version=1, digest=one, state="ready", default=True)
        for name, one in pinned.items()
    )
    return PlanInputs(
        loaded=engine().model_copy(update={"adapters": type(engine().adapters)(held)}),
        releases=Shards(
            {
                name: Release(adapter=name, base=BASE, version=1, digest=one)
                for name, one in pinned.items()
            }
        ),
        on_volume=Shards(dict.fromkeys(pinned.values(), True)),
    )


def test_a_round_plans_what_has_changed_and_nothing_else() -> None:
    planner, known = Planner(), fleet(1000)
    first = planner.plan(known)
    assert planner.planned == 1000
    known = replace(known, wanted=Wanted(adapters=first.wanted))
    planner.plan(known)  # what is asked has changed
    heartbeat = known.loaded.model_copy(update={"heartbeat": 1.0})
    known = replace(known, loaded=heartbeat)
    assert planner.plan(known) == first
    assert planner.planned == 0
    pin = Pin(version=2, digest="sha256:" + "9" * 64)
    newer = known.releases["adapter-7"].with_version(pin, "promoted")
    known = replace(known, releases=known.releases.replaced({"adapter-7": newer}))
    made = planner.plan(known)
    assert planner.planned == 1
    assert made.fetch == (Named("adapter-7", 2, pin.digest),)
    before = first.wanted.sharded.parts
    changed = [
        now for now, was in zip(made.wanted.sharded.parts, before, strict=True) if now is not was
    ]
    assert changed == []  # it is not on the volume yet
    planner.plan(replace(known, on_volume=known.on_volume.replaced({pin.digest: True})))
    assert planner.planned == 1


def test_a_report_of_what_the_engine_holds_is_the_engines_own() -> None:
    """So its shards are neither compared nor written again."""
    known = fleet(1000)
    told = report(known.loaded, RoundPlan(), errors={}, problems=())
    assert told.adapters is known.loaded.adapters


def test_a_report_tells_few_sentences_and_counts_the_rest() -> None:
    known = fleet(3)
    troubles = [f"trouble {number} " + "x" * 5000 for number in range(10_000)]
    told = report(known.loaded, RoundPlan(), errors={}, problems=troubles)
    assert told.error is not None and len(told.error) < 8000
    assert told.error.endswith("and 9992 more")
