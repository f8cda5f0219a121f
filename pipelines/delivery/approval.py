"""Whether a version may be delivered: its verdict and its signature. Every path asks here."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from atelier.adapter.signature_policy import SignaturePolicy
from atelier.data.policy import Policy
from atelier.errors import Refused, SignatureRejected
from atelier.stores.registry import Registry, VersionInfo
from pipelines.evaluate import Evaluation, judged_version, verdict


@dataclass(frozen=True)
class Approval:
    """A version that may serve. `warning` reports a bad signature where the policy only warns."""

    version: VersionInfo
    evaluation: Evaluation
    warning: str | None = None


def approve(
    registry: Registry, version: VersionInfo, policy: Policy, signatures: SignaturePolicy
) -> Approval:
    """Check the verdict under `policy` and the signature under `signatures`.

    Raises Refused where one of them does not allow the version, Unavailable where the registry is
    away. The package is fetched only where the signature policy is not `off`.
    """
    evaluation = accepted_evaluation(registry, version, policy)
    return Approval(version, evaluation, signature_warning(registry, version, signatures))


def accepted_evaluation(registry: Registry, version: VersionInfo, policy: Policy) -> Evaluation:
    """Compute the verdict again from the version's measures; Refused where a gate fails."""
    how = "run `atelier evaluate` on its package first"
    evaluation = judged_version(registry, version, policy.digest, how=how)
    found = verdict(evaluation, policy)
    if not found.accepted:
        reasons = "\n- ".join(found.reasons)
        raise Refused(f"{version.label} is refused by the policy:\n- {reasons}")
    return evaluation


def signature_warning(
    registry: Registry, version: VersionInfo, signatures: SignaturePolicy
) -> str | None:
    """None where the signature is good or nobody asks for one; Refused under `enforce`."""
    if signatures.policy == "off":
        return None
    found = registry.signatures(version)
    with tempfile.TemporaryDirectory() as folder:
        package = registry.fetch(version, Path(folder) / "package")
        try:
            return signatures.check(package, found).warning
        except SignatureRejected as error:
            raise Refused(f"{version.label} is refused by the signature policy: {error}") from error
