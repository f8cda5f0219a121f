"""Approval of a version before it is delivered: its verdict and its signature."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from atelier.adapter.signature_policy import SignaturePolicy
from atelier.data.policy import Policy
from atelier.errors import Refused, SignatureRejected
from atelier.stores.registry import Registry, VersionInfo
from pipelines.evaluate import Evaluation, addressed, judged_version, verdict


@dataclass(frozen=True)
class Approval:
    """A version that may serve. `warning` reports a bad signature if the policy only warns."""

    version: VersionInfo
    evaluation: Evaluation
    warning: str | None = None


def approve(
    registry: Registry, version: VersionInfo, policy: Policy, signatures: SignaturePolicy
) -> Approval:
    """Check the verdict under `policy` and the signature under `signatures`.

    Raises Refused if one of them does not allow the version, and Unavailable if the registry does
    not respond. The package is fetched only if the signature policy is not `off`.
    """
    evaluation = accepted_evaluation(registry, version, policy)
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
