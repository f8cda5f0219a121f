"""A release says what serves, remembers what did, and goes back without being told where to."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from atelier.contract.replica import Replica
from atelier.data.release import HISTORY, Canary, Pin, Release, ReleaseFolder
from atelier.errors import ReleaseError

BASE, OTHER_BASE = "sha256:" + "0" * 64, "sha256:" + "1" * 64
VAE = "sha256:" + "5" * 64


def pin(version: int) -> Pin:
    return Pin(version=version, digest=f"sha256:{version:064x}")


def release(*versions: int) -> Release:
    first = pin(versions[0])
    made = Release(adapter="thor-cat", base=BASE, version=first.version, digest=first.digest)
    for version in versions[1:]:
        made = made.with_version(pin(version), f"promote {version}")
    return made


def test_promoting_keeps_what_served() -> None:
    made = release(1, 2, 3)
    assert (made.version, made.revision, made.reason) == (3, 3, "promote 3")
    assert [(past.version, past.revision) for past in made.previous] == [(2, 2), (1, 1)]
    assert made.previous[0].since <= made.since


def test_going_back_twice_goes_back_further() -> None:
    back = release(1, 2, 3).rolled_back(reason="smeared")
    assert (back.version, back.revision, back.reason) == (2, 4, "smeared")
    assert back.previous[0].withdrawn
    further = back.rolled_back()
    assert (further.version, further.revision) == (1, 5)
    with pytest.raises(ReleaseError, match=r"thor-cat.*no earlier version.*atelier retire"):
        further.rolled_back()


def test_a_withdrawn_version_counts_again_once_it_is_promoted_again() -> None:
    again = release(1, 2).rolled_back().with_version(pin(2), "fixed the gate")
    assert again.with_version(pin(3), "next").rolled_back().version == 2


def test_any_revision_can_be_named() -> None:
    back = release(1, 2, 3).rolled_back()
    assert back.rolled_back(3).version == 3
    with pytest.raises(ReleaseError, match="no revision 9; known are: 3, 2, 1"):
        back.rolled_back(9)


def test_promoting_the_same_version_again_is_not_a_way_back() -> None:
    same = release(1, 1)
    with pytest.raises(ReleaseError, match="no earlier version"):
        same.rolled_back()


def test_a_canary_shares_and_ends_with_the_next_version() -> None:
    canary = Canary(version=2, digest=pin(2).digest, percent=10)
    shared = release(1).with_canary(canary, "try")
    assert (shared.version, shared.canary, shared.revision) == (1, canary, 2)
    assert shared.kept(3) == (pin(1), pin(2))
    assert shared.with_version(pin(2), "whole").canary is None
    assert shared.with_canary(None, "no").canary is None


def test_a_rollback_undoes_the_canary_first() -> None:
    canary = Canary(version=3, digest=pin(3).digest, percent=10)
    shared = release(1, 2).with_canary(canary, "try")
    back = shared.rolled_back(reason="worse")
    assert (back.version, back.canary, back.reason) == (2, None, "worse")
    assert back.revision == shared.revision + 1
    assert back.rolled_back().version == 1
    named = shared.rolled_back(1)
    assert (named.version, named.canary) == (1, None)
    with pytest.raises(ValidationError):
        Canary(version=2, digest=pin(2).digest, percent=0)


def test_kept_are_the_newest_distinct_ones() -> None:
    assert release(1, 2, 1, 3).kept(3) == (pin(3), pin(1), pin(2))
    assert release(1, 2, 3, 4).kept(2) == (pin(4), pin(3))
    assert release(1).kept(3) == (pin(1),)


def test_going_back_over_a_change_of_base_takes_the_base_along() -> None:
    moved = release(1, 2).with_version(pin(3), "trained anew", base=OTHER_BASE)
    assert [past.base for past in moved.previous] == [BASE, BASE]
    assert moved.kept(3) == (pin(3),)  # the others fit no replica of this base
    back = moved.rolled_back()
    assert (back.version, back.base, back.previous[0].base) == (2, BASE, OTHER_BASE)
    assert back.kept(3) == (pin(2), pin(1))


def test_the_vae_stays_comes_and_goes_back_like_the_base() -> None:
    moved = release(1).with_version(pin(2), "judged anew", base=BASE, vae=VAE)
    assert moved.with_version(pin(3), "promoted").vae == VAE
    assert moved.with_version(pin(3), "promoted", base=BASE).vae is None
    assert moved.rolled_back().vae is None
    assert moved.rolled_back().rolled_back(2).vae == VAE


def test_it_fits_who_draws_with_its_base_and_vae() -> None:
    judged = release(1).with_version(pin(2), "judged anew", base=BASE, vae=VAE)
    for base, vae in ((BASE, VAE), (BASE, None), (OTHER_BASE, VAE)):
        told = Replica(
            replica="r", base=base, vae=vae, backend="torch", engine_digest="e", heartbeat=0
        )
        assert judged.fits(told) == ((base, vae) == (BASE, VAE))
        assert release(1).fits(told) == ((base, vae) == (BASE, None))


def test_history_is_bounded() -> None:
    made = release(*range(1, 30))
    assert len(made.previous) == HISTORY
    assert made.previous[0].version == 28


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6) | st.none(), min_size=1, max_size=30))
def test_any_walk_keeps_its_promises(walk: list[int | None]) -> None:
    """Promotions (a version) and rollbacks (None) in any order."""
    made = release(1)
    for step in walk:
        if step is not None:
            made = made.with_version(pin(step), "promote")
            continue
        try:
            back = made.rolled_back()
        except ReleaseError:
            continue
        assert back.digest != made.digest
        assert back.digest in {past.digest for past in made.previous}
        made = back
    assert Release.model_validate_json(made.model_dump_json()) == made
    revisions = [made.revision, *(past.revision for past in made.previous)]
    assert revisions == sorted(revisions, reverse=True)


def test_folder_round_trip(tmp_path: Path) -> None:
    folder = ReleaseFolder(tmp_path / "releases")
    assert folder.list() == {}
    assert folder.get("thor-cat") is None
    made = release(1, 2)
    folder.put(made)
    assert folder.get("thor-cat") == made
    assert folder.list() == {"thor-cat": made}
    folder.remove("thor-cat")
    with pytest.raises(ReleaseError, match="thor-cat: does not exist; no adapter is served"):
        folder.remove("thor-cat")


@pytest.mark.parametrize("text", ["", "{", "{}", '{"adapter": "x"}'])
def test_a_damaged_release_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "thor-cat.json").write_text(text)
    with pytest.raises(ReleaseError, match=r"thor-cat\.json: not a release"):
        ReleaseFolder(tmp_path).get("thor-cat")


def test_a_release_under_another_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dog.json").write_text(release(1).model_dump_json())
    with pytest.raises(ReleaseError, match=r"dog\.json: contains the release of thor-cat"):
        ReleaseFolder(tmp_path).list()
