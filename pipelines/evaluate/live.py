"""The live scores of a canary: pictures made for users, compared with those of the serving version.

This module opens no pictures. A promotion recomputes the decision from the stored values, under its
own policy. The pictures of the two versions are unpaired: other users asked for other prompts.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atelier.contract.sample import SLOTS
from atelier.data.live_policy import LiveMeasure, LivePolicy
from atelier.data.names import AdapterName, Digest
from atelier.data.policy import Policy
from atelier.data.release import Pin
from atelier.errors import BadInput
from atelier.validation import summary

from .intervals import Interval, welch_interval
from .measure_info import MEASURES

Decision = Literal["keeps up", "falls behind", "not enough evidence"]
State = Literal["passed", "failed", "open"]  # open: the interval crosses the limit

SHOWN: Final = 3  # pictures that a reason names


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LivePicture(_Plain):
    """The measures of one sampled picture. Its prompt is in the picture only."""

    picture: str  # path in the run of the version
    values: dict[LiveMeasure, float]


class LiveSide(_Plain):
    """The measured pictures of one version."""

    version: int = Field(ge=1)
    digest: Digest
    run: str  # the MLflow run that has the pictures
    references: Digest  # of the training pictures that it was compared with
    pictures: tuple[LivePicture, ...]
    skipped: int = Field(default=0, ge=0)  # samples without the trigger, or of another package

    def values(self, name: LiveMeasure) -> np.ndarray:
        """Return the values of a measure, [pictures]."""
        return np.array([picture.values[name] for picture in self.pictures])

    def worst(self, name: LiveMeasure) -> tuple[str, ...]:
        """Return the pictures with the lowest values, the lowest first."""
        ordered = sorted(self.pictures, key=lambda picture: picture.values[name])
        return tuple(picture.picture for picture in ordered[:SHOWN])


class LiveDifference(_Plain):
    """One measure of both versions; `delta` and its interval are canary minus serving version."""

    name: LiveMeasure
    canary: float
    stable: float
    delta: float
    ci: Interval
    min_delta: float
    state: State
    pictures: tuple[str, ...]  # of the canary, the worst first


class LiveVerdict(_Plain):
    """The decision, the differences behind it, and the reasons."""

    decision: Decision
    differences: tuple[LiveDifference, ...]
    reasons: tuple[str, ...]


class LiveReport(_Plain):
    """The content of `live-<environment>.json` beside the canary's version."""

    schema_version: Literal[1] = 1
    adapter: AdapterName
    environment: str
    time: datetime
    policy: Digest  # of the section `live`, for `verdict`
    scorers: dict[str, str]  # names from the policy, by role
    scorer_digests: dict[str, str]
    stable: LiveSide
    canary: LiveSide
    verdict: LiveVerdict

    @classmethod
    def parse(cls, data: bytes, source: str) -> "LiveReport":
        """Read a report. Raises BadInput, with `source` as the place, if it is not valid."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            text = f"{source}: {summary(error)}; run `atelier live` again"
            raise BadInput(text) from error

    def to_json(self) -> str:
        """Return the text of the file."""
        return self.model_dump_json(indent=1) + "\n"

    def compares(self, canary: Pin, stable: Pin) -> bool:
        """Return whether the report compares exactly these two packages."""
        return (self.canary.digest, self.stable.digest) == (canary.digest, stable.digest)


def report_name(environment: str) -> str:
    """Return the name of an environment's report beside a version."""
    return f"live-{environment}.json"


def scorer_names(policy: Policy) -> dict[str, str]:
    """Return the scorers that live scores need, by role."""
    return {"clip": policy.scorers.clip, "dino": policy.scorers.dino}


def decide(stable: LiveSide, canary: LiveSide, policy: LivePolicy) -> LiveVerdict:
    """Compare the two sides under a policy.

    A canary falls behind if an interval lies completely below its limit, and keeps up if every
    interval lies completely above. Fewer pictures than `min_pictures` decide nothing.
    """
    lacking = [_lacking(side, policy) for side in (stable, canary)]
    if any(lacking):
        reasons = tuple(text for text in lacking if text)
        return LiveVerdict(decision="not enough evidence", differences=(), reasons=reasons)
    differences = tuple(_difference(name, stable, canary, policy) for name in policy.limits)
    failed = [difference for difference in differences if difference.state == "failed"]
    undecided = [difference for difference in differences if difference.state == "open"]
    decision: Decision = "keeps up"
    if failed:
        decision = "falls behind"
    elif undecided:
        decision = "not enough evidence"
    told: Sequence[LiveDifference] = failed or undecided or differences
    reasons = tuple(_reason(difference, stable, canary) for difference in told)
    return LiveVerdict(decision=decision, differences=differences, reasons=reasons)


def _lacking(side: LiveSide, policy: LivePolicy) -> str:
    """Return a sentence if a side has too few pictures, otherwise an empty text."""
    have = len(side.pictures)
    if have >= policy.min_pictures:
        return ""
    skipped = f", and {side.skipped} that cannot be compared" if side.skipped else ""
    return (
        f"version {side.version} has {have} sampled pictures{skipped}; "
        f"{policy.min_pictures - have} are missing of {policy.min_pictures}"
    )


def _difference(
    name: LiveMeasure, stable: LiveSide, canary: LiveSide, policy: LivePolicy
) -> LiveDifference:
    ours, theirs = canary.values(name), stable.values(name)
    interval = welch_interval(ours, theirs, 1 - policy.error)
    if interval is None:
        raise ValueError(f"{name}: a policy requires at least two pictures")
    low, high = interval
    limit = policy.limits[name].min_delta
    return LiveDifference(
        name=name,
        canary=round(float(ours.mean()), 6),
        stable=round(float(theirs.mean()), 6),
        delta=round(float(ours.mean() - theirs.mean()), 6),
        ci=(round(low, 6), round(high, 6)),
        min_delta=limit,
        state="passed" if low >= limit else "failed" if high < limit else "open",
        pictures=canary.worst(name),
    )


def _reason(difference: LiveDifference, stable: LiveSide, canary: LiveSide) -> str:
    low, high = difference.ci
    text = (
        f"{MEASURES[difference.name].title}: version {canary.version} has "
        f"{difference.canary:.3f} and version {stable.version} {difference.stable:.3f}, difference "
        f"{difference.delta:+.3f} ({low:+.3f} to {high:+.3f}); {difference.min_delta:+g} is allowed"
    )
    if difference.state == "passed":
        return text
    shown = ", ".join(difference.pictures)
    if difference.state == "open":
        text += f"; {_more(difference, min(len(stable.pictures), len(canary.pictures)))}"
    return f"{text}; worst pictures, in run {canary.run}: {shown}"


def _more(difference: LiveDifference, have: int) -> str:
    """Estimate how many more pictures decide a limit.

    The width of an interval falls with the root of the number of pictures.
    """
    distance = abs(difference.delta - difference.min_delta)
    reach = (difference.ci[1] - difference.ci[0]) / 2
    if not distance or have * (reach / distance) ** 2 > SLOTS:
        return f"more than the {SLOTS} pictures that are kept would decide it"
    needed = math.ceil(have * (reach / distance) ** 2)
    return f"about {max(1, needed - have)} more pictures of each version decide it"
