"""The ways back: what served before serves again, or nothing does, and the alias follows."""

from collections.abc import Sequence

import pytest

from atelier.data.release import Pin, Release, ReleaseFolder
from atelier.errors import AtelierError, BadInput, Refused
from pipelines.delivery.local.promotion import retire, rollback
from pipelines.delivery.local.reconciler import reconcile
from pipelines.evaluate.attestations import JudgedImage
from tests.judged import DIGEST as BASE
from tests.promoted import Adapter

OTHER_BASE = "sha256:" + "e" * 64


def test_rollback_serves_the_previous_version_and_the_alias_follows(cat: Adapter) -> None:
    cat.report(v1="ready", v2="ready")
    cat.promote(1)
    cat.promote(2)
    assert (cat.released, cat.alias) == (2, 2)
    standing = rollback(cat.name, registry=cat.registry, home=cat.home, reason="smudged")
    assert standing.state == "serving"
    assert (cat.released, cat.alias) == (1, 1)
    with pytest.raises(AtelierError, match="no earlier version"):
        rollback(cat.name, registry=cat.registry, home=cat.home)


def test_a_rollback_ends_the_canary_alone(cat: Adapter) -> None:
    cat.report(v1="ready", v2="ready")
    cat.promote(1)
    cat.promote(2, canary=10)
    rollback(cat.name, registry=cat.registry, home=cat.home)
    release = ReleaseFolder(cat.home.releases).get(cat.name)
    assert release is not None
    assert (release.version, release.canary, cat.alias) == (1, None, 1)


def test_rollback_needs_no_registry_and_says_that_the_alias_is_to_follow(cat: Adapter) -> None:
    cat.report(v1="ready", v2="ready")
    cat.promote(1)
    cat.promote(2)
    standing = rollback(cat.name, registry=None, home=cat.home)
    assert (standing.state, cat.released) == ("pending", 1)
    assert "registry is unavailable" in standing.message
    assert cat.alias == 2
    assert reconcile(cat.home, cat.registry)[0].state == "serving"
    assert cat.alias == 1


def test_a_rollback_is_never_taken_back_by_a_stumbling_replica(cat: Adapter) -> None:
    cat.report(v1="ready", v2="ready")
    cat.promote(1)
    cat.promote(2)
    cat.report(v1="failed", v2="ready")
    standing = rollback(cat.name, registry=cat.registry, home=cat.home, wait=0.2)
    assert standing.state == "pending"
    assert "shapes do not fit" in standing.message
    assert (cat.released, cat.alias) == (1, 2)


def test_a_rollback_overtakes_a_promotion_that_waits(cat: Adapter) -> None:
    cat.report(v1="ready")
    cat.promote(1)
    cat.report(v1="ready", v2="ready")
    cat.promote(2)
    third = cat.add(3)
    cat.report(v1="ready", v2="ready", **{f"v{third}": "ready"})

    def smoke(release: Release, pin: Pin, judged: Sequence[JudgedImage]) -> str:
        if pin.version == third:  # somebody rolls back while version 3 is checked
            rollback(release.adapter, registry=cat.registry, home=cat.home)
        return "drawn"

    with pytest.raises(Refused, match="version 2 is released"):
        cat.promote(third, smoke=smoke)
    assert (cat.released, cat.alias, cat.under_way) == (2, 2, False)


def test_retire_ends_release_and_alias(cat: Adapter) -> None:
    cat.report(v1="ready")
    cat.promote(1)
    cat.report()
    assert retire(cat.name, registry=cat.registry, home=cat.home).state == "retired"
    assert (cat.released, cat.alias, cat.under_way) == (None, None, False)
    with pytest.raises(BadInput, match="not served here"):
        retire(cat.name, registry=cat.registry, home=cat.home)


def test_retire_without_the_registry_leaves_the_alias_for_later(cat: Adapter) -> None:
    cat.report(v1="ready")
    cat.promote(1)
    cat.report()
    assert retire(cat.name, registry=None, home=cat.home).state == "pending"
    assert (cat.released, cat.alias) == (None, 1)
    assert reconcile(cat.home, cat.registry)[0].state == "retired"
    assert (cat.alias, cat.under_way) == (None, False)


def test_retire_waits_until_nothing_answers_by_it(cat: Adapter) -> None:
    cat.report(v1="ready")
    cat.promote(1)
    standing = retire(cat.name, registry=cat.registry, home=cat.home, wait=0.3)
    assert (standing.state, cat.alias, cat.under_way) == ("pending", 1, True)
    assert "still served by r0" in standing.message
    cat.report()
    assert reconcile(cat.home, cat.registry)[0].state == "retired"
    assert (cat.alias, cat.under_way) == (None, False)


def test_rollback_waits_for_what_answers_even_where_the_alias_never_moved(cat: Adapter) -> None:
    cat.report(v1="ready")
    cat.promote(1)
    cat.report(v1="ready", v2="loading")
    with pytest.raises(Refused):
        cat.promote(2)
    cat.report(v1="ready", v2="ready", default=2)  # it came up in the very last moment
    standing = reconcile(cat.home, cat.registry)[0]
    assert (standing.state, cat.released, cat.alias) == ("pending", 1, 1)
    assert "another version still serves on r0" in standing.message


def test_what_a_command_works_on_is_left_to_it(cat: Adapter) -> None:
    cat.report(v1="ready")
    cat.promote(1)
    asked = []

    def smoke(release: Release, pin: Pin, judged: Sequence[JudgedImage]) -> str:
        asked.append(reconcile(cat.home, cat.registry)[0])  # `serve`, while version 2 is verified
        return "drawn"

    cat.report(v1="ready", v2="ready")
    assert cat.promote(2, smoke=smoke).state == "serving"
    (standing,) = asked
    assert (standing.state, standing.retry) == ("pending", True)
    assert "another command is changing it" in standing.message
    assert reconcile(cat.home, cat.registry)[0].state == "serving"


def test_one_release_that_cannot_be_read_costs_the_others_nothing(cat: Adapter) -> None:
    cat.report(v1="ready")
    cat.promote(1)
    (cat.home.releases / "broken.json").write_text("{")
    broken, whole = reconcile(cat.home, cat.registry)
    assert (broken.adapter, broken.state) == ("broken", "pending")
    assert "promote or retire the adapter again" in broken.message
    assert whole.state == "serving"


def test_going_back_to_another_base_takes_the_base_along(cat: Adapter) -> None:
    cat.report(v1="ready")
    cat.promote(1)
    later = cat.add(4, base=OTHER_BASE)
    cat.report(base=OTHER_BASE, **{f"v{later}": "ready"})
    assert cat.promote(later).state == "serving"
    with pytest.raises(Refused) as caught:
        rollback(cat.name, registry=cat.registry, home=cat.home)
    assert f"{cat.name}@1: evaluated on base {BASE}" in str(caught.value)
    assert f"r0 serves base {OTHER_BASE}" in str(caught.value)
    assert (cat.released, cat.alias) == (later, later)

    cat.report(v1="ready")  # the old base serves again
    assert rollback(cat.name, registry=cat.registry, home=cat.home).state == "serving"
    release = ReleaseFolder(cat.home.releases).get(cat.name)
    assert release is not None
    assert (release.version, release.base, cat.alias) == (1, BASE, 1)
