"""A local promotion checks what one on a cluster does: the signature, and the judged images."""

from collections.abc import Sequence

import pytest

from atelier.adapter.signature import file_of, key_of, sign
from atelier.adapter.signature_policy import SignaturePolicy
from atelier.data.release import Pin, Release
from atelier.errors import Refused
from pipelines.delivery.local.promotion import rollback
from pipelines.delivery.smoke import ImageMismatch, Smoke
from pipelines.evaluate import attest
from pipelines.evaluate.attestations import JudgedImage, kept
from tests.judged import drawn, evaluation, policy
from tests.promoted import Adapter
from tests.signing import private_key, signer

KEY = private_key()


def test_a_version_without_the_signature_that_is_asked_for_is_never_released(cat: Adapter) -> None:
    cat.report(v1="ready")
    enforce = SignaturePolicy("enforce", (signer(KEY),))
    with pytest.raises(Refused, match=r"refused by the signature policy: .* is not signed"):
        cat.promote(1, signatures=enforce)
    assert (cat.released, cat.alias, cat.under_way) == (None, None, False)
    warned = cat.promote(1, signatures=SignaturePolicy("warn", (signer(KEY),)))
    assert warned.state == "serving" and "is not signed" in warned.message


def test_a_signed_version_is_promoted(cat: Adapter) -> None:
    cat.report(v2="ready")
    version = cat.registry.version(cat.name, 2)
    made = cat.registry.fetch(version, cat.home.root / "package")
    signature = sign(made, KEY)
    cat.registry.attest(version, file_of(key_of(KEY)), signature)
    done = cat.promote(2, signatures=SignaturePolicy("enforce", (signer(KEY),)))
    assert done.state == "serving" and "sign" not in done.message


def drawn_as(other: set[int], compared: list[int]) -> Smoke:
    """Draws as it was judged, but for the versions in `other`; keeps how many it compared with."""

    def smoke(release: Release, pin: Pin, judged: Sequence[JudgedImage]) -> str:
        compared.append(len(judged))
        if pin.version in other:
            raise ImageMismatch(
                f"{release.adapter}@{pin.version} does not generate the evaluated image"
            )
        return "drawn"

    return smoke


def test_a_version_that_draws_another_image_is_taken_back(cat: Adapter) -> None:
    new = cat.add(31)  # one that no other test has promoted
    cat.report(**{"v1": "ready", f"v{new}": "ready"})
    cat.promote(1, smoke=drawn_as(set(), []))
    with pytest.raises(Refused, match=r"was reverted .*does not generate the evaluated image"):
        cat.promote(new, smoke=drawn_as({new}, []))
    assert (cat.released, cat.alias, cat.under_way) == (1, 1, False)


def test_pixels_do_not_delay_a_rollback(cat: Adapter) -> None:
    cat.report(v1="ready", v2="ready")
    bad: set[int] = set()
    for version in (1, 2):
        cat.promote(version, smoke=drawn_as(bad, []))
    bad.update((1, 2))
    back = rollback(cat.name, registry=cat.registry, home=cat.home, smoke=drawn_as(bad, []))
    assert (back.state, cat.released, cat.alias) == ("serving", 1, 1)


def test_the_judged_images_are_drawn_again(cat: Adapter) -> None:
    judged = evaluation(policy(), adapter=cat.name, digest=cat.digests[1])
    folder = cat.folder / "evaluation"
    drawn(judged, folder, (10, 20, 30))
    attest(cat.registry, cat.registry.version(cat.name, 1), judged, folder)
    cat.report(v1="ready")
    compared: list[int] = []
    cat.promote(1, smoke=drawn_as(set(), compared))
    assert compared == [len(kept(judged))] and compared[0] > 0
