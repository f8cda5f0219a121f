"""A candidate's verdict for an environment: its gates, and how it stands to what serves there.

Both versions were judged where they were trained, by a GPU; from what is attested beside them the
rest follows in milliseconds, so a machine that could not draw a single picture can do it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from atelier.data.policy import Policy
from atelier.stores.registry import CANDIDATE, Registry, VersionInfo
from pipelines.evaluate import (
    Comparison,
    Evaluation,
    Verdict,
    compare,
    judged_version,
    pictures,
    verdict,
)
from pipelines.evaluate.attestations import kept


@dataclass(frozen=True)
class JudgedVersion:
    """A version, and what is attested beside it."""

    info: VersionInfo
    evaluation: Evaluation
    pictures: Mapping[str, Image.Image]  # the kept ones by name; none where nobody stored them

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.info.name}@{self.info.version}"


@dataclass(frozen=True)
class Validation:
    """What was found; `serving` is None where nothing serves, so where nothing is compared."""

    environment: str
    candidate: JudgedVersion
    serving: JudgedVersion | None
    verdict: Verdict
    comparison: Comparison | None

    @property
    def accepted(self) -> bool:
        """By its gates, and against what serves."""
        return self.verdict.accepted and (self.comparison is None or self.comparison.accepted)

    @property
    def reasons(self) -> Sequence[str]:
        """Why not; or what to know about a candidate that is accepted."""
        of_both: list[Verdict | Comparison] = [self.verdict]
        if self.comparison is not None:
            of_both.append(self.comparison)
        refusing = [one for one in of_both if not one.accepted]
        return [reason for one in refusing or of_both for reason in one.reasons]

    @property
    def side_by_side(self) -> Sequence[tuple[str, int, Sequence[Image.Image]]]:
        """Prompt, seed, and the pictures of the candidate and of what serves, where all have it."""
        sides = [self.candidate, *([self.serving] if self.serving else [])]
        return [
            (one.prompt, one.seed, [side.pictures[one.picture] for side in sides])
            for one in kept(self.candidate.evaluation)
            if all(one.picture in side.pictures for side in sides)
        ]


def validate(
    registry: Registry, name: str, version: int | None, *, environment: str, policy: Policy
) -> Validation:
    """Judge a version (the newest candidate without a number) against the one that the
    environment's alias names.

    Raises Refused where one of the two was not judged as the policy asks.
    """
    candidate = _judged(registry, registry.version(name, version or CANDIDATE), policy, environment)
    alias = registry.aliased(name, environment)
    serving = _judged(registry, alias, policy, environment) if alias else None
    return Validation(
        environment=environment,
        candidate=candidate,
        serving=serving,
        verdict=verdict(candidate.evaluation, policy),
        comparison=compare(candidate.evaluation, serving.evaluation, policy) if serving else None,
    )


def _judged(
    registry: Registry, info: VersionInfo, policy: Policy, environment: str
) -> JudgedVersion:
    how = f"`atelier submit RECIPE --environment {environment}` has it judged"
    evaluation = judged_version(registry, info, policy.digest, how=how)
    return JudgedVersion(info, evaluation, pictures(registry, info, evaluation))
