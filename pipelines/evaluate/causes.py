"""Infers why an adapter was refused, from all its measures together.

A single measure has several possible causes: a low subject fidelity is too little training, the
wrong pictures, or a broken adapter. The causes are tried in order, from those that explain the
other failures to those that are only their own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from atelier.data.policy import Measure

from .evaluation import Evaluation, GateResult

CauseName = Literal[
    "mixed pictures",
    "no effect",
    "stamped",
    "broken",
    "copied",
    "class lost",
    "drift",
    "one background",
    "wrong subject",
    "undertrained",
    "overtrained",
    "prompts not followed",
    "lost beside others",
    "not measured",
]

# The pictures of a wrong subject resemble each other more than this fraction of the base's spread:
# the adapter has learnt one individual. It is another one if the pictures have come less than this
# fraction of the way from the base's likeness to that of the references among themselves.
ONE_INDIVIDUAL: Final = 0.5
NO_APPROACH: Final = 0.15

_SUBJECT: Final[frozenset[Measure]] = frozenset({"subject", "image", "subject_crop", "face"})


@dataclass(frozen=True)
class Cause:
    """The most probable cause of a refusal, and the change that removes it."""

    name: CauseName
    finding: str
    fix: str

    def __str__(self) -> str:
        """Return `name: finding; fix`."""
        return f"{self.name}: {self.finding}; {self.fix}"


@dataclass(frozen=True)
class _Numbers:
    """The failed sides of every measure, and the means with the adapter and of the base."""

    low: frozenset[Measure]
    high: frozenset[Measure]
    on: Mapping[str, float]
    off: Mapping[str, float]
    ceiling: float  # of the subject fidelity

    @property
    def subject_missing(self) -> bool:
        return bool(self.low & {"retrieval", *_SUBJECT})

    @property
    def another_individual(self) -> bool:
        spread, base = self.on.get("diversity"), self.off.get("diversity")
        if spread is None or base is None or spread >= ONE_INDIVIDUAL * base:
            return False
        start = self.off.get("subject", 0.0)
        return self.on.get("subject", 0.0) - start < NO_APPROACH * (self.ceiling - start)


def cause(evaluation: Evaluation, gates: Sequence[GateResult]) -> Cause:
    """Return the most probable cause. At least one gate has failed."""
    numbers = _numbers(evaluation, gates)
    return next(found for holds, found in _CAUSES if holds(numbers))


def _numbers(evaluation: Evaluation, gates: Sequence[GateResult]) -> _Numbers:
    failed = [gate for gate in gates if gate.state == "failed" and gate.value is not None]
    pictures = evaluation.measures.pictures
    return _Numbers(
        low=frozenset(gate.name for gate in failed if gate.kind.startswith("min")),
        high=frozenset(gate.name for gate in failed if gate.kind.startswith("max")),
        on=_means([picture.values for picture in pictures]),
        off=_means([picture.base_values for picture in pictures]),
        ceiling=evaluation.measures.references.likeness.get("subject", 1.0),
    )


def _means(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = {name for of_picture in values for name in of_picture}
    return {name: float(np.mean([v[name] for v in values if name in v])) for name in names}


_CAUSES: Final[Sequence[tuple[Callable[[_Numbers], bool], Cause]]] = (
    (
        lambda n: "consistency" in n.low,
        Cause(
            "mixed pictures",
            "the training pictures show different subjects",
            "remove the pictures of other subjects, and train again",
        ),
    ),
    (
        lambda n: "effect" in n.low,
        Cause(
            "no effect",
            "the adapter changes nothing",
            "check that it was trained, and that its weight is not 0",
        ),
    ),
    (
        lambda n: "stamp" in n.high,
        Cause(
            "stamped",
            "a mark that all training pictures share is in the results",
            "crop or clean the training pictures (`atelier dataset lint`), and train again",
        ),
    ),
    (
        lambda n: bool({"sharpness"} & (n.low | n.high)),
        Cause(
            "broken",
            "the pictures are smeared or noisy compared with the base's",
            "lower the learning rate, and train more kinds of layers than attention",
        ),
    ),
    (
        lambda n: bool({"copying", "replica"} & n.high),
        Cause(
            "copied",
            "a training picture is reproduced",
            "train for fewer steps, or add training pictures",
        ),
    ),
    (
        lambda n: bool({"leak", "class_drift"} & n.high) and not n.subject_missing,
        Cause(
            "class lost",
            "prompts of the class without the trigger show the subject or another class",
            "add a prior of the class or raise its weight, or train for fewer steps",
        ),
    ),
    (
        lambda n: bool({"leak", "class_drift", "drift"} & n.high),
        Cause(
            "drift",
            "prompts that do not name the subject give other pictures than the base",
            "raise the prior's weight, lower the learning rate or train for fewer steps",
        ),
    ),
    (
        lambda n: "background" in n.high,
        Cause(
            "one background",
            "the background of the training pictures appears in other places",
            "add training pictures in front of other backgrounds, or name the background in their "
            "captions",
        ),
    ),
    (
        lambda n: n.subject_missing and n.another_individual,
        Cause(
            "wrong subject",
            "the pictures show one individual, but not that of the reference pictures",
            "check that the dataset and the reference pictures show the same subject",
        ),
    ),
    (
        lambda n: n.subject_missing,
        Cause(
            "undertrained",
            "the subject is not recognised",
            "train longer, raise the rank or the learning rate, or add training pictures",
        ),
    ),
    (
        lambda n: "text" in n.low,
        Cause(
            "prompts not followed",
            "the subject appears, but not in the place or action of the prompt",
            "train for fewer steps, or give each training picture a caption",
        ),
    ),
    (
        lambda n: (
            bool({"diversity"} & n.low)
            or bool({"subject", "image", "subject_crop", "face"} & n.high)
        ),
        Cause(
            "overtrained",
            "every seed gives nearly the same picture",
            "train for fewer steps, or add training pictures",
        ),
    ),
    (
        lambda n: "together" in n.low,
        Cause(
            "lost beside others",
            "the subject is lost if the policy's companions are applied at the same time",
            "lower the rank or the learning rate, or train fewer kinds of layers",
        ),
    ),
    (
        lambda n: "diversity" in n.high,
        Cause(
            "undertrained",
            "the pictures of one prompt show different individuals",
            "train longer, or raise the rank",
        ),
    ),
    (
        lambda _: True,
        Cause(
            "not measured",
            "a gate has no value, or a limit of its own",
            "see the gates below",
        ),
    ),
)
