"""The measures of the optional scorers, with features that can be worked out in the head."""

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from atelier.data.policy import Gate
from pipelines.evaluate import verdict
from pipelines.evaluate.measure_info import MEASURES
from pipelines.evaluate.measures import measure
from pipelines.evaluate.optional_measures import OptionalMeasures
from pipelines.evaluate.scorers import OptionalScorers
from tests.judged import GOOD, OFF, evaluation, policy
from tests.unit.test_evaluate_measures import BLUE, GREEN, RED, Colours, Pair, against, plain, shot

EVERY_ROLE = {"clip": "c", "dino": "d", "copy": "s", "face": "f", "saliency": "u"}


def colour(image: Image.Image) -> np.ndarray:
    row = np.asarray(image.convert("RGB"), dtype=float).mean(axis=(0, 1))
    return row / np.linalg.norm(row)


class Copies:
    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        return np.stack([colour(image) for image in images])


class People:
    """A picture shows a face if it has any red."""

    def faces(self, images: Sequence[Image.Image]) -> list[np.ndarray | None]:
        return [colour(image) if np.asarray(image)[..., 0].any() else None for image in images]


class LeftHalf:
    """The subject is in the left half of every picture."""

    def masks(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        masks = [np.zeros(image.size[::-1], dtype=bool) for image in images]
        for mask in masks:
            mask[:, : mask.shape[1] // 2] = True
        return masks


def halves(left: tuple[int, int, int], right: tuple[int, int, int]) -> Image.Image:
    picture = Image.new("RGB", (64, 64), right)
    picture.paste(left, (0, 0, 32, 64))
    return picture


def test_a_scorer_that_is_absent_adds_nothing() -> None:
    pairs = [Pair(shot("subject", 0, 0), plain(RED), plain(GREEN))]
    found = measure(pairs, against(RED, BLUE), Colours())
    optional = {"subject_crop", "background", "replica", "face", "faces"}
    assert not optional & {*found.pictures[0].values, *found.pictures[0].base_values}
    assert set(found.references.likeness) == {"subject", "image"}


def test_a_replica_is_the_nearest_training_picture_and_only_of_the_adapter() -> None:
    pairs = [Pair(shot("subject", 0, 0), plain(RED), plain(GREEN))]
    found = measure(pairs, against(GREEN, RED), Colours(), OptionalScorers(copy=Copies()))
    assert found.pictures[0].values["replica"] == 1
    assert "replica" not in found.pictures[0].base_values


def test_a_picture_without_a_face_counts_zero_and_is_reported() -> None:
    pairs = [
        Pair(shot("subject", 0, 0), plain(RED), plain(GREEN)),
        Pair(shot("subject", 0, 1), plain(BLUE), plain(RED)),
    ]
    purple = (255, 0, 255)
    optional = OptionalScorers(face=People())
    found = measure(pairs, against(RED, purple, GREEN), Colours(), optional)
    like = (1 + 2**-0.5) / 2  # the mean over the two references with a face
    assert [one.values["face"] for one in found.pictures] == pytest.approx([like, 0], abs=1e-6)
    assert [one.values["faces"] for one in found.pictures] == [1, 0]
    assert [one.base_values["face"] for one in found.pictures] == pytest.approx([0, like], abs=1e-6)
    assert [one.values["faces"] for one in found.references.pictures] == [1, 1, 0]
    assert found.references.likeness["face"] == pytest.approx(2**-0.5, abs=1e-6)


def test_without_a_face_in_the_references_faces_cannot_be_compared() -> None:
    pairs = [Pair(shot("subject", 0, 0), plain(RED), plain(GREEN))]
    optional = OptionalScorers(face=People())
    values = measure(pairs, against(GREEN), Colours(), optional).pictures[0].values
    assert "face" not in values and values["faces"] == 1


def test_subject_and_background_are_compared_separately() -> None:
    """The references show red in front of blue."""
    references = [halves(RED, BLUE)] * 2
    scorers = OptionalScorers(saliency=LeftHalf())
    more = OptionalMeasures(scorers, Colours().dino, references, references)
    elsewhere, other, same = more.of_adapter(
        [halves(RED, GREEN), halves(GREEN, BLUE), halves(RED, BLUE)]
    )
    assert same["subject_crop"] == pytest.approx(1) and same["background"] == pytest.approx(1)
    assert elsewhere["subject_crop"] == pytest.approx(1)  # the place does not count
    assert other["background"] == pytest.approx(1)  # nor does the subject
    assert other["subject_crop"] < 0.9 and elsewhere["background"] < 0.9
    assert more.likeness == pytest.approx({"subject_crop": 1.0})


def test_a_picture_without_a_background_shows_none_of_the_training_pictures() -> None:
    class Everywhere(LeftHalf):
        def masks(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
            return [np.ones(image.size[::-1], dtype=bool) for image in images]

    references = [halves(RED, BLUE)]
    scorers = OptionalScorers(saliency=Everywhere())
    more = OptionalMeasures(scorers, Colours().dino, references, references)
    assert more.of_base([halves(RED, BLUE)])[0]["background"] == 0


@pytest.mark.parametrize(
    ("measured", "gate", "value", "cause"),
    [
        ("background", Gate(max_delta=0.1), 0.9, "one background"),
        ("replica", Gate(max=0.75), 0.8, "copied"),
        ("face", Gate(min=0.363), 0.1, "undertrained"),
        ("subject_crop", Gate(min=0.5), 0.1, "undertrained"),
    ],
)
def test_each_measure_is_refused_for_its_own_reason(
    measured: str, gate: Gate, value: float, cause: str
) -> None:
    good = GOOD | {"background": 0.3, "replica": 0.2, "face": 0.6, "subject_crop": 0.7}
    under = policy(scorers=EVERY_ROLE, gates={measured: gate}, seeds={"first": 8, "most": 8})

    def judged(values: dict[str, float]) -> tuple[str, str]:
        one = evaluation(under, subject=values)
        base = [
            picture.model_copy(update={"base_values": OFF | {"background": 0.3}})
            for picture in one.measures.pictures
        ]
        measures = one.measures.model_copy(update={"pictures": tuple(base)})
        found = verdict(one.model_copy(update={"measures": measures}), under)
        return found.decision, found.reasons[0]

    assert judged(good)[0] == "accepted"
    decision, reason = judged(good | {measured: value})
    assert decision == "refused"
    assert reason.startswith(cause)


def test_a_gate_on_faces_says_that_it_is_for_people() -> None:
    under = policy(scorers=EVERY_ROLE, gates={"face": {"min": 0.3}})
    found = verdict(evaluation(under), under)
    assert found.decision == "refused"
    assert (
        "no reference picture shows a face; set this gate only for adapters of people"
        in (found.reasons[-1])
    )
    assert MEASURES["replica"].largest
