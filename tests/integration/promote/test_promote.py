"""Promotion against a real registry: verdicts are repeated, the alias follows what serves."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from atelier.data.release import Pin, Release, ReleaseFolder
from atelier.errors import AtelierError, BadInput, Refused, Unavailable
from pipelines.delivery.local.reconciler import reconcile
from pipelines.delivery.smoke import Smoke
from pipelines.evaluate.attestations import JudgedImage
from tests.judged import DIGEST as BASE
from tests.judged import GOOD, policy
from tests.promoted import Adapter, package


def recorded(asked: list[int]) -> Smoke:
    """Draws whatever it is asked for, and keeps the versions."""

    def smoke(release: Release, pin: Pin, judged: Sequence[JudgedImage]) -> str:
        asked.append(pin.version)
        return "drawn"

    return smoke


def test_a_version_serves_and_the_alias_follows_the_verified_release(cat: Adapter) -> None:
    cat.report(v1="ready")
    asked: list[int] = []
    standing = cat.promote(1, smoke=recorded(asked))
    assert standing.state == "serving"
    assert (cat.released, cat.alias) == (1, 1)
    assert asked == [1]
    release = ReleaseFolder(cat.home.releases).get(cat.name)
    assert release is not None
    assert release.digest == cat.digests[1]
    assert cat.promote(1).state == "serving"  # again: nothing to do
    assert release == ReleaseFolder(cat.home.releases).get(cat.name)


def test_without_replicas_the_alias_waits_for_the_first_one(cat: Adapter) -> None:
    standing = cat.promote(1)
    assert standing.state == "pending"
    assert (cat.released, cat.alias) == (1, None)
    cat.report(v1="ready")
    assert [one.state for one in reconcile(cat.home, cat.registry)] == ["serving"]
    assert (cat.released, cat.alias, cat.under_way) == (1, 1, False)


def test_a_replica_that_cannot_load_it_gets_the_old_release_back(cat: Adapter) -> None:
    cat.report(v1="ready")
    cat.promote(1)
    cat.report(v1="ready", v2="failed")
    with pytest.raises(Refused, match=r"shapes do not fit") as caught:
        cat.promote(2)
    assert "version 1 is released" in str(caught.value)
    assert (cat.released, cat.alias, cat.under_way) == (1, 1, False)


def test_a_first_version_that_fails_leaves_nothing_released(cat: Adapter) -> None:
    cat.report(v1="failed")
    with pytest.raises(Refused, match="was reverted"):
        cat.promote(1)
    assert (cat.released, cat.alias, cat.under_way) == (None, None, False)


def test_waiting_ends_and_takes_the_release_back(cat: Adapter) -> None:
    cat.report(v1="ready")
    cat.promote(1)
    cat.report(v1="ready", v2="loading")
    with pytest.raises(Refused, match=r"not yet ready on r0 after 0\.3 s"):
        cat.promote(2)
    assert (cat.released, cat.alias, cat.under_way) == (1, 1, False)


def test_a_failed_smoke_check_takes_the_release_back(cat: Adapter) -> None:
    cat.report(v1="ready", v2="ready")
    cat.promote(1)

    def smoke(release: Release, pin: Pin, judged: Sequence[JudgedImage]) -> str:
        raise AtelierError(f"{release.adapter}@{pin.version} makes grey pictures")

    with pytest.raises(Refused, match="makes grey pictures"):
        cat.promote(2, smoke=smoke)
    assert (cat.released, cat.alias) == (1, 1)


def test_a_gateway_that_is_away_is_asked_again_until_the_time_is_over(cat: Adapter) -> None:
    cat.report(v1="ready")
    asked = []

    def smoke(release: Release, pin: Pin, judged: Sequence[JudgedImage]) -> str:
        asked.append(pin.version)
        if len(asked) < 3:
            raise Unavailable("gateway away")
        return "drawn"

    assert cat.promote(1, smoke=smoke, wait=30.0).state == "serving"
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"subject": GOOD | {"subject": 0.3}, "decision": "accepted"}, "wrong subject"),
        ({"digest": "sha256:" + "9" * 64}, "its evaluation is of"),
        ({"adapter": "another"}, "its evaluation is of another"),
        ({"scorers": {"clip": "mine", "dino": "mine"}}, "scorers"),
    ],
    ids=["claims to be accepted", "another digest", "another adapter", "other scorers"],
)
def test_a_verdict_is_repeated_not_believed(
    cat: Adapter, changes: dict[str, Any], word: str
) -> None:
    version = cat.add(random.randrange(1000, 9999), **changes)
    with pytest.raises(Refused, match=word):
        cat.promote(version)
    assert cat.released is None


def test_an_unjudged_version_is_refused(cat: Adapter) -> None:
    made = package(cat.folder / "unjudged", cat.name, 9)
    version = cat.registry.register(made, run_id=None)
    with pytest.raises(Refused, match="has not been evaluated"):
        cat.promote(version)


def test_an_environment_may_ask_for_more(cat: Adapter) -> None:
    stricter = policy(gates={"subject": {"min": 0.95}})
    with pytest.raises(Refused, match=r"below the limit of 0\.950"):
        cat.promote(1, policy=stricter)


def test_an_adapter_for_another_base_is_refused_at_once(cat: Adapter) -> None:
    other = "sha256:" + "e" * 64
    cat.report(base=other, v1="ready")
    with pytest.raises(Refused) as caught:
        cat.promote(1)
    assert other in str(caught.value)
    assert BASE in str(caught.value)


def test_a_version_judged_with_another_vae_is_refused_at_once(cat: Adapter) -> None:
    vae = "sha256:" + "5" * 64
    cat.report(vae=vae, v1="ready")
    with pytest.raises(
        Refused, match=f"its own VAE, but r0 serves base .* and VAE {vae}"
    ) as caught:
        cat.promote(1)
    assert "--vae" in str(caught.value)
    assert cat.released is None
    judged = cat.add(7, vae=vae)
    cat.report(vae=vae, **{f"v{judged}": "ready"})
    assert cat.promote(judged).state == "serving"


def test_promoted_before_anything_ran_it_waits_for_the_vae_it_was_judged_with(cat: Adapter) -> None:
    assert cat.promote(1).state == "pending"
    cat.report(vae="sha256:" + "5" * 64, v1="ready")
    (standing,) = reconcile(cat.home, cat.registry)
    assert standing.state == "pending" and "and VAE sha256:555" in standing.message
    assert cat.alias is None
    cat.report(v1="ready")
    assert [one.state for one in reconcile(cat.home, cat.registry)] == ["serving"]


def test_a_version_judged_anew_with_another_vae_is_a_new_revision(cat: Adapter) -> None:
    vae = "sha256:" + "5" * 64
    cat.report(v1="ready")
    cat.promote(1)
    cat.judge(1, vae=vae)
    cat.report(vae=vae, v1="ready")
    assert cat.promote(1).state == "serving"
    release = ReleaseFolder(cat.home.releases).get(cat.name)
    assert release is not None
    assert (release.version, release.revision, release.vae) == (1, 2, vae)
    cat.judge(1)


def test_another_engine_on_the_same_base_and_vae_is_told_and_may_serve(cat: Adapter) -> None:
    cat.report(v1="ready")
    assert "another engine" not in cat.promote(1).message
    cat.report(v1="ready", v2="ready", engine="sha256:gpu")
    standing = cat.promote(2)
    assert standing.state == "serving"
    assert "evaluated on another engine (torch engine) than r0 (torch sha256:gpu)" in (
        standing.message
    )


def test_a_canary_is_tried_beside_what_serves(cat: Adapter) -> None:
    cat.report(v1="ready", v2="ready")
    with pytest.raises(BadInput, match="needs a version that serves"):
        cat.promote(2, canary=10)
    cat.promote(1)
    asked: list[int] = []
    standing = cat.promote(2, canary=10, smoke=recorded(asked))
    assert standing.state == "serving"
    assert asked == [2]
    release = ReleaseFolder(cat.home.releases).get(cat.name)
    assert release is not None
    assert release.canary is not None
    assert (release.version, release.canary.version, release.canary.percent) == (1, 2, 10)
    assert cat.alias == 1
    cat.promote(2)
    assert (cat.released, cat.alias) == (2, 2)


def test_a_canary_that_fails_ends_and_the_rest_serves_on(cat: Adapter) -> None:
    cat.report(v1="ready", v2="failed")
    cat.promote(1)
    with pytest.raises(Refused, match="shapes do not fit"):
        cat.promote(2, canary=10)
    release = ReleaseFolder(cat.home.releases).get(cat.name)
    assert release is not None
    assert (release.version, release.canary, cat.alias) == (1, None, 1)


def test_a_canary_for_another_base_is_refused(cat: Adapter) -> None:
    cat.promote(1)
    other = cat.add(5, base="sha256:" + "e" * 64)
    with pytest.raises(
        Refused,
        match=f"thor-cat@{other}: evaluated on base .*evaluate the canary on the base and VAE",
    ):
        cat.promote(other, canary=10)
    release = ReleaseFolder(cat.home.releases).get(cat.name)
    assert release is not None
    assert release.canary is None


def test_release_and_registry_that_disagree_are_both_named(cat: Adapter) -> None:
    cat.report(v1="ready")
    cat.promote(1)
    releases = ReleaseFolder(cat.home.releases)
    release = releases.get(cat.name)
    assert release is not None
    forged = "sha256:" + "f" * 64
    releases.put(release.model_copy(update={"digest": forged}))
    standing = reconcile(cat.home, cat.registry)[0]
    assert standing.state == "disagrees"
    assert forged in standing.message
    assert cat.digests[1] in standing.message
    assert cat.alias == 1
