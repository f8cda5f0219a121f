"""The pictures that a verdict names have an address in the registry, and are stored there."""

import pytest

from atelier.errors import BadInput
from pipelines.evaluate import Evaluation, PictureAddress, addressed, verdict
from pipelines.evaluate.attestations import kept, stored
from tests.judged import GOOD, evaluation, policy, replaced

PROMPTS = {
    "subject": ["{trigger} on the beach"],
    "class": ["a {class} on the beach"],
    "unrelated": ["a red robot"],
}


def judged(one: Evaluation, **under: object) -> Evaluation:
    said = verdict(one, policy(**under))
    return one.model_copy(
        update={"gates": said.gates, "decision": said.decision, "reasons": said.reasons}
    )


def test_every_picture_of_a_reason_gets_the_version_in_front_once() -> None:
    reason = "it is 0.3 (worst: pictures/subject-0-seed-1.png, pictures/class-2-seed-10-base.png)"
    (said,) = addressed([reason], "thor-cat@3")
    assert said == (
        "it is 0.3 (worst: thor-cat@3/pictures/subject-0-seed-1.png, "
        "thor-cat@3/pictures/class-2-seed-10-base.png)"
    )
    assert addressed([said], "thor-cat@4") == (said,)


def test_a_training_picture_is_no_picture_of_the_evaluation() -> None:
    reason = "similarity is 0.1 (worst: a.png, pictures/b.png, my/pictures/subject-0-seed-1.png)"
    assert addressed([reason], "thor-cat@3") == (reason,)


def test_an_address_is_a_version_with_or_without_a_picture() -> None:
    whole = PictureAddress.parse("thor-cat@3")
    assert (whole.name, whole.version, whole.picture) == ("thor-cat", 3, None)
    one = PictureAddress.parse("thor-cat@3/pictures/class-0-seed-1.png")
    assert one.picture == "pictures/class-0-seed-1.png"


@pytest.mark.parametrize(
    "text", ["thor-cat", "thor-cat@x", "thor-cat@1/pictures/../x.png", "thor-cat@1/sheet.png"]
)
def test_what_is_no_address_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput, match="NAME@VERSION"):
        PictureAddress.parse(text)


def test_the_pictures_that_reasons_name_are_stored() -> None:
    gates = {"subject": {"min": 0.6}, "class_drift": {"max": 0.5}, "effect": {"min": 0.01}}
    seeds = {"first": 4, "most": 4}
    one = evaluation(policy(prompts=PROMPTS, gates=gates, seeds=seeds))
    for index, value in ((2, 0.41), (3, 0.42), (0, 0.43), (1, 0.44)):
        one = replaced(one, index, subject=value)
    for index, value in ((4, 0.9), (5, 0.9), (6, 0.91), (7, 0.92)):
        one = replaced(one, index, class_drift=value)
    one = judged(one, prompts=PROMPTS, gates=gates, seeds=seeds)
    assert one.decision == "refused"
    paths = {measured.picture for measured in stored(one)}
    named = {f"pictures/subject-0-seed-{seed}.png" for seed in (2, 3)}
    named |= {f"pictures/class-0-seed-{seed}.png" for seed in (2, 3)}
    first = {f"pictures/{role}-0-seed-0.png" for role in PROMPTS}
    assert paths == named | first
    assert all(path in " ".join(one.reasons) for path in named)


def test_of_an_accepted_adapter_the_first_pictures_are_stored() -> None:
    one = judged(evaluation(policy(), subject=GOOD))
    assert one.accepted
    assert [measured.picture for measured in stored(one)] == [
        "pictures/subject-0-seed-0.png",
        "pictures/unrelated-0-seed-0.png",
    ]


def test_the_stored_pictures_are_bounded_whatever_the_number_of_prompts() -> None:
    many = {"subject": [f"{{trigger}} {i}" for i in range(9)], "unrelated": ["a red robot"]}
    one = evaluation(policy(prompts=many))
    assert len(kept(one)) == 4
    assert len(stored(one)) == 5
