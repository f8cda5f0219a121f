"""Validates a candidate for an environment, with its gates and against the serving version.

Both versions were evaluated by their training Jobs. The validation needs only the stored
evaluations, so it takes milliseconds and needs no GPU.
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
    addressed,
    compare,
    judged_version,
    pictures,
    verdict,
)
from pipelines.evaluate.attestations import kept


@dataclass(frozen=True)
class JudgedVersion:
    """A version with its stored evaluation and pictures."""

    info: VersionInfo
    evaluation: Evaluation
    pictures: Mapping[str, Image.Image]  # the stored pictures by path; may be empty

    @property
    def label(self) -> str:
        """NAME@VERSION."""
        return f"{self.info.name}@{self.info.version}"


@dataclass(frozen=True)
class Validation:
    """The result of a validation.

    Without a serving version, `serving` and `comparison` are None.
    """

    environment: str
    candidate: JudgedVersion
    serving: JudgedVersion | None
    verdict: Verdict
    comparison: Comparison | None

    @property
    def accepted(self) -> bool:
        """Whether the gates and the comparison with the serving version accept the candidate."""
        return self.verdict.accepted and (self.comparison is None or self.comparison.accepted)

    @property
    def reasons(self) -> Sequence[str]:
        """The reasons for a refusal, or the remarks on an accepted candidate.

        They name the candidate's pictures by address.
        """
        results: list[Verdict | Comparison] = [self.verdict]
        if self.comparison is not None:
            results.append(self.comparison)
        refusals = [result for result in results if not result.accepted]
        reasons = [reason for result in refusals or results for reason in result.reasons]
        return addressed(reasons, self.candidate.label)

    @property
    def side_by_side(self) -> Sequence[tuple[str, int, Sequence[Image.Image]]]:
        """The prompts, seeds and pictures that are stored for all versions."""
        sides = [self.candidate, *([self.serving] if self.serving else [])]
        return [
            (item.prompt, item.seed, [side.pictures[item.picture] for side in sides])
            for item in kept(self.candidate.evaluation)
            if all(item.picture in side.pictures for side in sides)
        ]


def validate(
    registry: Registry, name: str, version: int | None, *, environment: str, policy: Policy
) -> Validation:
    """Validate a version, or without a number the candidate, for an environment.

    The environment's alias names the serving version. Raises Refused if one of the two versions was
    not evaluated as the policy requires.
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
    how = f"`atelier submit RECIPE --environment {environment}` evaluates it"
    evaluation = judged_version(registry, info, policy.digest, how=how)
    return JudgedVersion(info, evaluation, pictures(registry, info, evaluation))
