"""What a promotion on a cluster gives to Helm and writes into git; Helm itself: tests/cluster."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from atelier.contract.replica import HeldAdapter, Replica
from atelier.contract.shards import Shards
from atelier.data.declaration import Declaration, Withdrawn
from atelier.data.release import Canary, Pin, Release
from atelier.errors import BadInput, Refused
from atelier.platform.helm import Revision
from atelier.stores.environment import Released
from atelier.stores.registry import VersionInfo
from pipelines.delivery.cluster import EnvironmentStatus, StatusLine, compare
from pipelines.delivery.cluster.helm_values import release_values, require_served
from pipelines.delivery.cluster.record import recorded
from pipelines.delivery.cluster.rollback import (
    RevisionRelease,
    rollback_target,
    rolled_back_release,
)

ONE, TWO, THREE, BASE = (f"sha256:{digit * 64}" for digit in "123b")
NOW = datetime(2026, 11, 21, tzinfo=UTC)
PLATFORM: dict[str, Any] = {
    "image": {"repository": "r/serve", "digest": ONE, "pullSecrets": []},
    "smoke": {"secret": "atelier-smoke", "key": "key", "prompt": "a cat"},
    "serving": {"base": BASE, "vae": "", "canary": []},
}


def pin(version: int) -> Pin:
    return Pin(version=version, digest=(ONE, TWO, THREE)[version - 1])


def canary(version: int, percent: int = 10) -> Canary:
    return Canary(**pin(version).model_dump(), percent=percent)


def declared(version: int = 2, **more: Any) -> Declaration:
    fields = {"adapter": "thor", "base": BASE, "reason": "so", **pin(version).model_dump()}
    return Declaration.model_validate(fields | more)


def live(version: int = 1, **more: Any) -> Release:
    fields = {"adapter": "thor", "base": BASE, **pin(version).model_dump()}
    return Release.model_validate(fields | more)


def revision(number: int = 4, status: str = "deployed") -> Revision:
    return Revision(number, status, "promoted", NOW)


def manifest(one: Pin) -> str:
    return f"manifest of {one.version}"


def test_what_serves_becomes_the_newest_of_the_past() -> None:
    values = release_values(declared(), PLATFORM, live(), revision(), manifest)
    (past,) = values["previous"]
    assert (past["version"], past["revision"], past["reason"]) == (1, 4, "promoted")
    assert values["manifests"] == {TWO: "manifest of 2", ONE: "manifest of 1"}
    assert values["hook"]["image"] == PLATFORM["image"]
    assert values["canary"] == {} and values["vae"] == ""


def test_a_canary_beside_what_serves_adds_nothing_to_the_past() -> None:
    there = declared(1, canary=canary(2))
    values = release_values(there, PLATFORM, live(), revision(), manifest)
    assert values["previous"] == []
    assert values["canary"] == {"version": 2, "digest": TWO, "percent": 10}
    assert set(values["manifests"]) == {ONE, TWO}


def test_what_was_withdrawn_is_not_kept_at_hand() -> None:
    before = live(1).with_version(pin(2), "promoted").with_version(pin(1), "back")
    gone = [Withdrawn(**pin(2).model_dump(), reason="grey")]
    values = release_values(declared(3, withdrawn=gone), PLATFORM, before, revision(), manifest)
    assert {one["version"] for one in values["previous"]} == {1}


def test_a_version_for_another_base_is_refused_before_anything_waits_for_it() -> None:
    require_served(declared(), PLATFORM)
    other = {**PLATFORM, "serving": {"base": ONE, "vae": "", "canary": []}}
    with pytest.raises(Refused, match="evaluated on base"):
        require_served(declared(), other)
    beside = {"base": ONE, "vae": "", "canary": [{"name": "next", "base": BASE, "percent": 5}]}
    require_served(declared(), {**PLATFORM, "serving": beside})


def test_going_back_is_written_down_with_what_was_left() -> None:
    tried = [pin(1), pin(2)]
    found = recorded(live(1), declared(2, replaces=pin(1)), live(2), tried, 3, "grey cats")
    assert (found.version, found.replaces, found.reason) == (1, pin(2), "grey cats")
    assert found.revision == 3
    assert [(one.version, one.reason) for one in found.withdrawn] == [(2, "grey cats")]
    with pytest.raises(Refused, match="grey cats"):
        declared(2, withdrawn=found.withdrawn).require_wanted()


def test_ending_a_canary_withdraws_it_and_nothing_else() -> None:
    there = declared(1, canary=canary(2))
    found = recorded(live(1), there, live(1, canary=canary(2)), [pin(1), pin(2)], 3, "noise")
    assert (found.version, found.canary) == (1, None)
    assert [one.version for one in found.withdrawn] == [2]


def test_recording_twice_changes_nothing() -> None:
    tried = [pin(1), pin(2)]
    once = recorded(live(1), declared(2, replaces=pin(1)), live(2), tried, 3, "grey cats")
    assert recorded(live(1), once, None, tried, 3, "grey cats") == once


def test_a_version_that_nobody_tried_is_not_withdrawn() -> None:
    """Version 3, a mend of 2, waits for its approval while 2 is rolled back from."""
    there = declared(3, replaces=pin(2))
    found = recorded(live(1), there, live(2), [pin(1), pin(2)], 3, "grey cats")
    assert [one.version for one in found.withdrawn] == [2]


def known(*releases: tuple[int, str] | Release) -> list[RevisionRelease]:
    """A history of versions and their revisions' statuses, oldest first."""
    made = []
    for number, one in enumerate(releases, start=1):
        release, status = (
            (one, "superseded") if isinstance(one, Release) else (live(one[0]), one[1])
        )
        made.append(RevisionRelease(revision(number, status), release))
    return made


CUT = {kind: revision(9, f"pending-{kind}") for kind in ("upgrade", "rollback")}
HERE = {(BASE, None)}


@pytest.mark.parametrize(
    ("history", "now", "cut_off", "left", "goes_to"),
    [
        pytest.param(
            [(1, "superseded"), (2, "deployed")], live(2), None, 2, 1, id="as it is mostly"
        ),
        pytest.param(
            [(1, "superseded"), (2, "deployed")],
            live(3),
            CUT["upgrade"],
            3,
            2,
            id="a promotion killed in its hook",
        ),
        pytest.param(
            [(1, "superseded"), (2, "deployed")],
            live(2),
            CUT["upgrade"],
            None,
            2,
            id="a promotion killed before it wrote anything",
        ),
        pytest.param(
            [(1, "superseded"), (2, "deployed")],
            live(1),
            CUT["rollback"],
            2,
            1,
            id="a rollback killed in its hook",
        ),
        pytest.param(
            [(1, "superseded"), (2, "deployed")],
            live(2),
            CUT["rollback"],
            2,
            1,
            id="a rollback killed before it wrote anything",
        ),
        pytest.param(
            [(1, "superseded"), (2, "failed")], live(2), None, 2, 1, id="a promotion that failed"
        ),
        pytest.param(
            [(1, "superseded"), (2, "deployed")], None, None, 2, 1, id="a ConfigMap nobody can read"
        ),
    ],
)
def test_a_way_back_leaves_what_was_bad_and_nothing_else(
    history: list[tuple[int, str]],
    now: Release | None,
    cut_off: Revision | None,
    left: int | None,
    goes_to: int,
) -> None:
    there = known(*history)
    behind = rolled_back_release(there, now, cut_off)
    assert (behind.version if behind else None) == left
    found = rollback_target("thor", there, behind, withdrawn=[], bases=HERE)
    assert found.release.version == goes_to


def test_a_way_back_passes_over_what_was_withdrawn_and_what_does_not_fit() -> None:
    there = known((1, "superseded"), live(2, base=THREE), (2, "superseded"), (3, "deployed"))
    behind = rolled_back_release(there, live(3), None)
    assert rollback_target("thor", there, behind, withdrawn=[TWO], bases=HERE).number == 1
    assert rollback_target("thor", there, behind, withdrawn=[], bases=HERE).number == 3
    with pytest.raises(
        Refused, match="revision 2 needs a base or VAE that the platform does not serve"
    ):
        rollback_target("thor", there, behind, withdrawn=[], bases=HERE, revision=2)
    with pytest.raises(
        BadInput, match="no revision 7 that served; the revisions that served are 4, 3, 2, 1"
    ):
        rollback_target("thor", there, behind, withdrawn=[], bases=HERE, revision=7)
    with pytest.raises(Refused, match="none of its 4 revisions is suitable"):
        rollback_target("thor", there, behind, withdrawn=[ONE, TWO], bases=HERE)


def test_a_way_back_from_a_canary_keeps_what_serves() -> None:
    tried = live(1, canary=canary(2))
    there = known((1, "superseded"), tried, live(1, canary=canary(2, 50)))
    assert rollback_target("thor", there, tried, withdrawn=[], bases=HERE).number == 1


def replica(*versions: int) -> Replica:
    held = [
        HeldAdapter(name="thor", **pin(one).model_dump(), state="ready", default=True)
        for one in versions
    ]
    return Replica(
        replica="pod-1",
        base=BASE,
        adapters=tuple(held),
        heartbeat=0.0,
        backend="torch",
        engine_digest=ONE,
    )


def version(number: int, *aliases: str) -> VersionInfo:
    return VersionInfo("thor", number, pin(number).digest, "run", {}, aliases, NOW)


def differences(**more: Any) -> tuple[str, ...]:
    given = {
        "declared": {"thor": declared(1)},
        "released": Released(Shards({"thor": live(1)}), {}),
        "revisions": {"thor": revision()},
        "versions": {"thor": [version(1, "production"), version(2)]},
        "replicas": [replica(1)],
    } | more
    (line,) = compare("production", **given)
    return line.differences


def test_where_all_sides_agree_nothing_is_said() -> None:
    assert differences() == ()
    assert differences(versions=None) == ()  # MLflow is away, which the command says


def test_an_mlflow_that_has_lost_everything_is_not_taken_for_one_that_is_away() -> None:
    alias, version = differences(versions={})
    assert "alias production in MLflow names no version" in alias
    assert "MLflow has no such version" in version


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        ({"declared": {"thor": declared(2)}}, ["git declares version 2", "cluster serves version"]),
        ({"declared": {}}, ["git declares nothing", "Helm revision 4: promoted"]),
        ({"declared": {"thor": declared(1, canary=canary(2))}}, ["version 2 to 10 %"]),
        ({"declared": {"thor": declared(1, base=TWO)}}, [TWO[:19], BASE[:19]]),
        ({"revisions": {"thor": revision(5, "pending-upgrade")}}, ["5 is pending-upgrade"]),
        ({"versions": {"thor": [version(1), version(2, "production")]}}, ["names version 2"]),
        ({"versions": {"thor": [version(1)]}}, ["names no version"]),
        ({"replicas": [replica()]}, ["ready on 0 of 1"]),
    ],
)
def test_a_difference_names_both_sides(sides: dict[str, Any], said: list[str]) -> None:
    (found,) = differences(**sides)
    assert all(part in found for part in said), found


def test_a_rollback_is_told_with_its_reason_alone() -> None:
    back = Revision(5, "pending-rollback", "Rollback to 3: grey cats", NOW)
    git, helm = differences(declared={"thor": declared(2)}, revisions={"thor": back})
    assert "(Helm revision 5: grey cats)" in git
    assert helm == "Helm revision 5 is pending-rollback, not deployed: grey cats"


def test_what_nobody_serves_any_more_is_found_too() -> None:
    found = differences(released=Released(Shards(), {}), revisions={})
    assert any("the cluster serves nothing" in one for one in found)
    assert any("alias production in MLflow names version 1" in one for one in found)


def test_a_release_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    broken = Released(Shards(), {"thor": "ConfigMap release-thor: not a release"})
    assert "not a release" in differences(released=broken)[0]


@pytest.mark.parametrize(
    ("differences", "problem", "code"),
    [
        ((), "", 0),
        (("git declares nothing",), "", 1),
        ((), "aliases are not compared: MLflow is away", 3),
        (("git declares nothing",), "aliases are not compared: MLflow is away", 1),
    ],
)
def test_a_difference_counts_for_more_than_a_side_that_is_away(
    differences: tuple[str, ...], problem: str, code: int
) -> None:
    line = StatusLine("thor", declared(1), live(1), revision(), 1, 1, 1, differences)
    status = EnvironmentStatus("production", (line,), problem)
    assert status.exit_code == code
    assert status.differences == [f"thor: {text}" for text in differences]
