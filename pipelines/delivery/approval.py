"""Whether a version may be promoted by its signature: what its agents will ask, asked before."""

import tempfile
from pathlib import Path

from atelier.adapter.signature_policy import SignaturePolicy
from atelier.errors import Refused, SignatureRejected
from atelier.stores.registry import Registry, VersionInfo


def require_signed(registry: Registry, info: VersionInfo, trust: SignaturePolicy) -> str | None:
    """What is wrong with the signature where the policy only warns, None where nothing is.

    Refused where the policy enforces. Fetches the package, except where nobody asks.
    """
    if trust.policy == "off":
        return None
    signatures = registry.signatures(info.name, info.version)
    with tempfile.TemporaryDirectory() as folder:
        package = registry.fetch(info.name, info.version, Path(folder) / "package")
        try:
            return trust.check(package, signatures).warning
        except SignatureRejected as error:
            label = f"{info.name}@{info.version}"
            raise Refused(f"{label} is refused by the signature policy: {error}") from error
