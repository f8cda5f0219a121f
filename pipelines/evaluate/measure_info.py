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
        None,
        needs="give the recipe at least two pictures",
    ),
    "subject": MeasureInfo("subject fidelity (DINO)", "subject", against_base=True),
    "image": MeasureInfo("subject fidelity (CLIP-I)", "subject", against_base=True),
    "retrieval": MeasureInfo(
        "share of pictures nearer to the subject than to a look-alike",
        "subject",
        against_base=True,
        rate=True,
    ),
    "text": MeasureInfo("text fidelity (CLIP-T)", "subject", against_base=True),
    "class_drift": MeasureInfo("drift of the class", "class", better="lower", needs=_CLASS),
    "leak": MeasureInfo(
        "share of pictures of the class that show the subject",
        "class",
        better="lower",
        rate=True,
        needs=_CLASS,
    ),
    "drift": MeasureInfo("drift of unrelated prompts", "unrelated", better="lower"),
    "diversity": MeasureInfo(
        "diversity across seeds",
        "subject",
        better="neither",
        against_base=True,
        needs=_TWO_SEEDS,
    ),
    "sharpness": MeasureInfo("sharpness relative to the base", "subject", better="neither"),
    "copying": MeasureInfo(
        "similarity to a training picture", "subject", better="lower", largest=True
    ),
    "stamp": MeasureInfo(
        "share of the training pictures' common mark that is in a picture",
        "subject",
        better="lower",
    ),
    "effect": MeasureInfo("effect on the picture", "subject", better="neither"),
}
