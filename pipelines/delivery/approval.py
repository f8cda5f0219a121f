"""Approval of a version before it is delivered: its verdict, signature and live scores."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from atelier.adapter.signature_policy import SignaturePolicy
from atelier.data.policy import Policy
from atelier.data.release import Pin, Release
from atelier.errors import Refused, SignatureRejected
from atelier.stores.registry import Registry, VersionInfo
from pipelines.evaluate import Evaluation, addressed, judged_version, verdict
from pipelines.evaluate.live import LiveReport, decide, report_name, scorer_names

LOCAL: Final = "local"  # the environment of one machine


@dataclass(frozen=True)
class Approval:
    """A version that may serve. `warning` reports a bad signature if the policy only warns."""

    version: VersionInfo
    evaluation: Evaluation
    warning: str | None = None


@dataclass(frozen=True)
class CanaryTrial:
    """A canary that shall serve every request of its environment in place of `stable`."""

    environment: str
    stable: Pin

    @classmethod
    def of(cls, release: Release | None, digest: str, environment: str) -> "CanaryTrial | None":
        """Return the trial that ends if a release's canary serves every request, else None."""
        if release is None or release.canary is None or release.canary.digest != digest:
            return None
        return cls(environment, release.pin)


def approve(
    registry: Registry,
    version: VersionInfo,
    policy: Policy,
    signatures: SignaturePolicy,
    *,
    trial: CanaryTrial | None = None,
) -> Approval:
    """Check the verdict and the live scores under `policy`, the signature under `signatures`.

    The live scores count if the version is a canary that shall serve every request (`trial`) and
    the policy has a section `live`. Raises Refused if one of the checks does not allow the version,
    and Unavailable if the registry does not respond. The package is fetched only if the signature
    policy is not `off`.
    """
    evaluation = accepted_evaluation(registry, version, policy)
    if trial is not None and policy.live is not None:
        require_live_scores(registry, version, policy, trial)
    return Approval(version, evaluation, signature_warning(registry, version, signatures))


def accepted_evaluation(registry: Registry, version: VersionInfo, policy: Policy) -> Evaluation:
    """Return the version's evaluation; raise Refused if it fails a gate of `policy`.

    The verdict is computed again from the measurements, because the policy may have changed.
    """
    how = "run `atelier evaluate` on its package first"
    evaluation = judged_version(registry, version, policy.digest, how=how)
    result = verdict(evaluation, policy)
    if not result.accepted:
        reasons = "\n- ".join(addressed(result.reasons, version.label))
        raise Refused(f"{version.label} is {result.decision} under the policy:\n- {reasons}")
    return evaluation


def require_live_scores(
    registry: Registry, version: VersionInfo, policy: Policy, trial: CanaryTrial
) -> None:
    """Raise Refused unless the live scores of a canary allow that it serves every request.

    The decision is made again from the measurements, because the policy may have changed.
    """
    if policy.live is None:
        return
    name = report_name(trial.environment)
    again = f"run `atelier live {version.name}{_where(trial.environment)}`"
    data = registry.attestation(version, name)
    if data is None:
        raise Refused(
            f"{version.label}: the policy requires live scores, and there are none; "
            f"{policy.live.min_pictures} sampled pictures of each version are missing; {again}"
        )
    report = LiveReport.parse(data, f"{name} of {version.label}")
    if not report.compares(Pin(version=version.version, digest=version.digest), trial.stable):
        raise Refused(
            f"{version.label}: its live scores are of another package or compare it with version "
            f"{report.stable.version}, but version {trial.stable.version} serves; {again}"
        )
    if report.scorers != scorer_names(policy):
        raise Refused(f"{version.label}: its live scores have other scorers; {again}")
    found = decide(report.stable, report.canary, policy.live)
    if found.decision != "keeps up":
        reasons = "\n- ".join(found.reasons)
        raise Refused(f"{version.label} in {trial.environment}: {found.decision}\n- {reasons}")


def _where(environment: str) -> str:
    return "" if environment == LOCAL else f" --environment {environment}"


def signature_warning(
    registry: Registry, version: VersionInfo, signatures: SignaturePolicy
) -> str | None:
    """Return the warning about a bad signature, None if it is good or the policy is `off`.

    Raises Refused under `enforce`.
    """
    if signatures.policy == "off":
        return None
    stored = registry.signatures(version)
    with tempfile.TemporaryDirectory() as folder:
        package = registry.fetch(version, Path(folder) / "package")
        try:
            return signatures.check(package, stored).warning
        except SignatureRejected as error:
            raise Refused(f"{version.label} is refused by the signature policy: {error}") from error
