"""Pairs the measures of several runs, picture by picture, from their evaluations."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from atelier.data.names import Digest
from atelier.data.policy import Measure
from atelier.errors import BadInput
from atelier.validation import summary
from pipelines.evaluate import MEASURES, Evaluation
from pipelines.evaluate.evaluation import Measured

from .parameters import RunGroup
from .trainings import Estimate, Scatter, Values, by_prompt, difference, pooled, scatter

_SEED: Final = re.compile(r"-seed-\d+\.png$")  # the end of a picture's path

Word = Literal["better", "worse", "other", "no difference told apart"]


@dataclass(frozen=True)
class PromptDifference:
    """The difference of one prompt; its interval holds for all prompts of the measure together."""

    prompt: str
    estimate: Estimate

    @property
    def told_apart(self) -> bool:
        """Whether the interval excludes zero."""
        return _excludes_zero(self.estimate)


@dataclass(frozen=True)
class ScoreDifference:
    """A measure of two recipes or runs: both means, and the difference `other` minus `first`.

    `known` is the scatter between trainings that the interval includes; None if it is unknown.
    """

    name: Measure
    first: float
    other: float
    estimate: Estimate
    prompts: tuple[PromptDifference, ...]
    pictures: int
    known: Scatter | None

    @property
    def title(self) -> str:
        """The name of the measure, for people."""
        return MEASURES[self.name].title

    @property
    def better(self) -> bool | None:
        """Whether `other` has the better mean; None if neither direction is better."""
        direction = MEASURES[self.name].better
        if direction == "neither":
            return None
        return (self.estimate.delta > 0) == (direction == "higher")

    @property
    def word(self) -> Word:
        """The interpretation of the interval."""
        if not _excludes_zero(self.estimate):
            return "no difference told apart"
        if self.better is None:
            return "other"
        return "better" if self.better else "worse"


@dataclass(frozen=True)
class PairedScores:
    """The measures of all runs on their common pictures, [prompt][run] by measure.

    `prompts` are the texts of the prompts of each measure, of the first run.
    """

    values: Mapping[Measure, Values]  # one array [runs, seeds] for each prompt
    prompts: Mapping[Measure, tuple[str, ...]]

    @classmethod
    def of(cls, evaluations: Sequence[Evaluation]) -> "PairedScores":
        """Pair the pictures of evaluations under one policy; a run may have more seeds."""
        sides = [
            {one.picture: one for one in evaluation.measures.pictures} for evaluation in evaluations
        ]
        values: dict[Measure, Values] = {}
        prompts: dict[Measure, tuple[str, ...]] = {}
        for name in MEASURES:
            if files := _common(name, sides):
                values[name] = [
                    np.array([[side[file].values[name] for file in of] for side in sides])
                    for of in files
                ]
                prompts[name] = tuple(sides[0][of[0]].prompt for of in files)
        return cls(values, prompts)

    def scatter(self, groups: Sequence[RunGroup]) -> dict[Measure, Scatter]:
        """Return the scatter between the trainings of the groups, by measure."""
        found = {
            name: scatter([_rows(values, group.runs) for group in groups])
            for name, values in self.values.items()
            if not MEASURES[name].largest
        }
        return {name: each for name, each in found.items() if each is not None}

    def differences(
        self,
        first: Sequence[int],
        other: Sequence[int],
        known: Mapping[Measure, Scatter],
    ) -> list[ScoreDifference]:
        """Return the difference of every measure between two groups of runs.

        `known` is the scatter between trainings by measure.
        """
        return [
            self._difference(name, _rows(values, first), _rows(values, other), known.get(name))
            for name, values in self.values.items()
        ]

    def _difference(
        self, name: Measure, first: Values, other: Values, known: Scatter | None
    ) -> ScoreDifference:
        prompts: tuple[PromptDifference, ...] = ()
        if MEASURES[name].largest:
            a, b = (float(np.mean(_maxima(side))) for side in (first, other))
            estimate = Estimate(b - a, None, None)  # a maximum has no interval
        else:
            a, b = (float(np.mean([rows.mean() for rows in side])) for side in (first, other))
            estimate = difference(first, other, known)
            each = by_prompt(first, other, known)
            prompts = tuple(map(PromptDifference, self.prompts[name], each))
        pictures = sum(rows.shape[1] for rows in first)
        return ScoreDifference(name, a, b, estimate, prompts, pictures, known)


class KnownScatter(BaseModel):
    """The part of compare.json that `--scatter` reads: the scatter of trainings under a policy."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    policy: Digest
    scatter: dict[Measure, Scatter]

    @classmethod
    def load(cls, file: Path, policy: Digest) -> Mapping[Measure, Scatter]:
        """Read the scatter of an earlier comparison.

        Raises BadInput if it cannot be read, has no scatter, or was measured under another policy.
        """
        try:
            found = cls.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            why = error.strerror if isinstance(error, OSError) else summary(error)
            raise BadInput(
                f"{file}: cannot be read ({why}); give the compare.json of a comparison of repeats"
            ) from error
        if found.policy != policy or not found.scatter:
            raise BadInput(
                f"{file}: has no scatter under policy {policy}; compare repeats of one recipe "
                "under this policy first"
            )
        return found.scatter


def merged(known: Sequence[Mapping[Measure, Scatter]]) -> dict[Measure, Scatter]:
    """Return the scatter by measure, from several independent sources."""
    names = dict.fromkeys(name for each in known for name in each)
    found = {name: pooled([each.get(name) for each in known]) for name in names}
    return {name: each for name, each in found.items() if each is not None}


def _excludes_zero(estimate: Estimate) -> bool:
    return estimate.ci is not None and not estimate.ci[0] <= 0 <= estimate.ci[1]


def _rows(values: Values, runs: Sequence[int]) -> Values:
    return [rows[list(runs)] for rows in values]


def _maxima(values: Values) -> np.ndarray:
    """Return the largest value of each run."""
    return np.concatenate(list(values), axis=1).max(axis=1)


def _common(name: Measure, sides: Sequence[Mapping[str, Measured]]) -> list[list[str]]:
    """Return the pictures by prompt for which all runs have this measure, in the first's order."""
    prompts: dict[str, list[str]] = {}
    for file in sides[0]:
        if all(file in side and name in side[file].values for side in sides):
            prompts.setdefault(_SEED.sub("", file), []).append(file)
    return list(prompts.values())
