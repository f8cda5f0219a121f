"""A canary is compared by what users got: too little decides nothing, enough decides rightly."""

import numpy as np
import pytest

from atelier.data.live_policy import LivePolicy
from atelier.data.policy import DEFAULT, Policy
from atelier.errors import BadInput, PolicyError
from pipelines.evaluate.live import LivePicture, LiveReport, LiveSide, decide
from pipelines.evaluate.live_samples import text_for_clip
from tests.judged import policy

DIGESTS = {1: "sha256:" + "a" * 64, 2: "sha256:" + "b" * 64}
LIVE = LivePolicy.model_validate(
    {"limits": {"subject": {"min_delta": -0.05}, "text": {"min_delta": -0.02}}}
)


def side(
    version: int, *, subject: float, text: float = 0.3, count: int = 64, seed: int = 0
) -> LiveSide:
    """A side whose pictures scatter about the means, by 0.08 and by 0.02."""
    draw = np.random.default_rng([version, seed])
    pictures = tuple(
        LivePicture(
            picture=f"attestations/{version}/live/staging/{index:03}.png",
            values={
                "subject": float(draw.normal(subject, 0.08)),
                "text": float(draw.normal(text, 0.02)),
                "image": 0.9,
            },
        )
        for index in range(count)
    )
    return LiveSide(
        version=version,
        digest=DIGESTS[version],
        run=f"run{version}",
        references=DIGESTS[1],
        pictures=pictures,
    )


def test_an_equal_canary_keeps_up() -> None:
    found = decide(side(1, subject=0.7), side(2, subject=0.71), LIVE)
    assert found.decision == "keeps up"
    assert [one.state for one in found.differences] == ["passed", "passed"]
    assert "-0.05 is allowed" in found.reasons[0]


def test_a_worse_canary_falls_behind_with_its_worst_pictures() -> None:
    canary = side(2, subject=0.55)
    found = decide(side(1, subject=0.7), canary, LIVE)
    assert found.decision == "falls behind"
    (reason,) = found.reasons
    worst = min(canary.pictures, key=lambda one: one.values["subject"])
    assert "subject fidelity" in reason
    assert f"in run run2: {worst.picture}" in reason


def test_too_few_pictures_decide_nothing_however_bad_they_are() -> None:
    found = decide(side(1, subject=0.7, count=40), side(2, subject=0.1, count=20), LIVE)
    assert found.decision == "not enough evidence"
    assert found.reasons == ("version 2 has 20 sampled pictures; 12 are missing of 32",)
    both = decide(side(1, subject=0.7, count=3), side(2, subject=0.1, count=0), LIVE)
    assert [reason.split(";")[1] for reason in both.reasons] == [
        " 29 are missing of 32",
        " 32 are missing of 32",
    ]


def test_an_interval_across_the_limit_tells_how_many_more_decide() -> None:
    found = decide(side(1, subject=0.7, count=32), side(2, subject=0.68, count=32), LIVE)
    assert found.decision == "not enough evidence"
    (reason,) = found.reasons
    more = int(reason.split("about ")[1].split()[0])
    assert 0 < more <= 96
    at_the_limit = decide(side(1, subject=0.7, count=96), side(2, subject=0.65, count=96), LIVE)
    assert "more than the 128 pictures that are kept" in at_the_limit.reasons[0]


@pytest.mark.parametrize("wrong", ["falls behind", "keeps up"])
def test_at_the_limit_the_stated_error_holds(wrong: str) -> None:
    """Two-sided, so each wrong decision has half of the error."""
    live = LivePolicy.model_validate({"limits": {"subject": {"min_delta": -0.05}}, "error": 0.1})
    trials = 400
    wrongs = sum(
        decide(side(1, subject=0.7, seed=seed), side(2, subject=0.65, seed=seed), live).decision
        == wrong
        for seed in range(trials)
    )
    assert wrongs / trials < 0.05 + 4 * (0.05 * 0.95 / trials) ** 0.5


def test_a_damaged_report_is_named() -> None:
    with pytest.raises(BadInput, match=r"live-staging\.json: .*run `atelier live` again"):
        LiveReport.parse(b"{}", "live-staging.json")


def test_clip_reads_the_class_in_place_of_the_trigger() -> None:
    assert text_for_clip("A  Sks\ncat, at sea", "sks cat", "cat") == "A  cat, at sea"
    assert text_for_clip("asks catalogue", "sks cat", "cat") == "asks catalogue"
    assert text_for_clip("a (cat)", "(cat)", r"\1") == r"a \1"
    assert text_for_clip("a boat", "", "cat") == "a boat"


def test_the_section_changes_no_digest_of_a_policy() -> None:
    """An evaluation stays valid when the operator edits the live scores."""
    live = {"limits": {"text": {"min_delta": -0.1}}}
    assert policy(live=live).digest == policy().digest
    assert policy(live=live).live != policy().live


@pytest.mark.parametrize(
    ("live", "told"),
    [
        ("{limits: {}}", "live.limits"),
        ("{limits: {sharpness: {min_delta: -0.1}}}", "live.limits.sharpness"),
        ("{limits: {text: {min_delta: 0.1}}}", "live.limits.text.min_delta"),
        ("{limits: {text: {max_delta: 0.1}}}", "live.limits.text"),
        ("{min_pictures: 1, limits: {text: {min_delta: -0.1}}}", "live.min_pictures"),
        ("{take_bak: true, limits: {text: {min_delta: -0.1}}}", "did you mean take_back?"),
    ],
)
def test_a_mistake_in_the_section_is_named(live: str, told: str) -> None:
    text = DEFAULT.read_text() + f"\nlive: {live}\n"
    with pytest.raises(PolicyError) as caught:
        Policy.parse(text, "policy.yaml")
    assert told in str(caught.value)
