"""The properties of every measure: its title, its pictures, and how its values are aggregated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from atelier.data.policy import Measure

from .evaluation import Kind
from .prompt_set import Role

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

_TWO_SEEDS: Final = "give the policy at least two seeds"
_CLASS: Final = "the adapter declares no class; set `class` in its recipe"


@dataclass(frozen=True)
class MeasureInfo:
    """The properties of a measure."""

    title: str
    explanation: str  # one sentence for readers who do not know the measure
    role: Role | None  # the prompts of its pictures; None: it measures the reference pictures
    better: Literal["higher", "lower", "neither"] = "higher"  # in a comparison of two versions
    against_base: bool = False  # whether it is also measured on the base, for a delta
    largest: bool = False  # whether it is aggregated by the maximum instead of the mean
    rate: bool = False  # whether its values are 0 and 1
    needs: str = "evaluate the package again"  # the fix if it has no value

    @property
    def has_interval(self) -> bool:
        """Whether its value is a mean over sampled pictures."""
        return self.sampled and not self.largest

    @property
    def sampled(self) -> bool:
        """Whether its pictures are a sample of seeds, so that its value has an interval."""
        return self.role is not None


MEASURES: Final[Mapping[Measure, MeasureInfo]] = {
    "consistency": MeasureInfo(
        "similarity of the reference pictures to each other",
        "If it is low, the pictures show different subjects, and no adapter can learn one of them.",
        None,
        needs="give the recipe at least two pictures",
    ),
    "subject": MeasureInfo(
        "subject fidelity (DINO)",
        "The similarity of the subject in the pictures to the subject in the references.",
        "subject",
        against_base=True,
    ),
    "image": MeasureInfo(
        "subject fidelity (CLIP-I)",
        "The similarity of the whole picture to the reference pictures.",
        "subject",
        against_base=True,
    ),
    "retrieval": MeasureInfo(
        "share of pictures nearer to the subject than to a look-alike",
        "A picture counts if it resembles a reference more than any other member of the class.",
        "subject",
        against_base=True,
        rate=True,
    ),
    "text": MeasureInfo(
        "text fidelity (CLIP-T)",
        "The similarity of the pictures to their prompts: place, action and style.",
        "subject",
        against_base=True,
    ),
    "class_drift": MeasureInfo(
        "drift of the class",
        "How far pictures of the class without the trigger have moved from those of the base.",
        "class",
        better="lower",
        needs=_CLASS,
    ),
    "leak": MeasureInfo(
        "share of pictures of the class that show the subject",
        "A picture of the class without the trigger counts if it shows the subject.",
        "class",
        better="lower",
        rate=True,
        needs=_CLASS,
    ),
    "drift": MeasureInfo(
        "drift of unrelated prompts",
        "How far pictures that do not name the subject have moved from those of the base.",
        "unrelated",
        better="lower",
    ),
    "diversity": MeasureInfo(
        "diversity across seeds",
        "The difference between pictures of one prompt. If it is too low, every seed gives the "
        "same picture; if it is too high, each seed shows another individual.",
        "subject",
        better="neither",
        against_base=True,
        needs=_TWO_SEEDS,
    ),
    "sharpness": MeasureInfo(
        "sharpness relative to the base",
        "Fine detail, compared with the base: too little is smeared, too much is noisy.",
        "subject",
        better="neither",
    ),
    "copying": MeasureInfo(
        "similarity to a training picture",
        "How exactly a picture reproduces the most similar training picture.",
        "subject",
        better="lower",
        largest=True,
    ),
    "effect": MeasureInfo(
        "effect on the picture",
        "The difference between pictures with the adapter and without it.",
        "subject",
        better="neither",
    ),
    "together": MeasureInfo(
        "subject fidelity (DINO) beside the companions",
        "The similarity of the subject to the references if other adapters, the policy's "
        "companions, are applied at the same time.",
        "subject",
    ),
    "subject_crop": MeasureInfo(
        "subject fidelity (DINO) without the background",
        "The similarity of the subject alone, separated from the background in every picture.",
        "subject",
        against_base=True,
    ),
    "background": MeasureInfo(
        "similarity of the background to that of the training pictures",
        "If it is high, the adapter has learnt the place of its pictures.",
        "subject",
        better="lower",
        against_base=True,
    ),
    "replica": MeasureInfo(
        "similarity to a training picture (copy detector)",
        "How certainly a copy detector finds a training picture in a picture.",
        "subject",
        better="lower",
        largest=True,
    ),
    "face": MeasureInfo(
        "similarity of the face to those of the references",
        "The identity of the largest face, compared with the faces of the references.",
        "subject",
        against_base=True,
        needs="no reference picture shows a face; set this gate only for adapters of people",
    ),
    "faces": MeasureInfo(
        "share of pictures that show a face",
        "A picture counts if a face is found in it.",
        "subject",
        against_base=True,
        rate=True,
    ),
    "stamp": MeasureInfo(
        "share of the training pictures' common mark that is in a picture",
        "A stripe, logo or date that all training pictures share appears in the pictures.",
        "subject",
        better="lower",
    ),
}
