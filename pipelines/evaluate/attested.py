"""Verdicts beside a version in the registry: the newest of all, and the newest under each policy.

Environments judge by pictures of their own, so one's verdict must not take the place of another's.
"""

from pathlib import Path

from atelier.names import Digest, hex_of
from atelier.registry import Registry

from .evaluation import FILE, SHEET, Evaluation


def attest(registry: Registry, version: int, judged: Evaluation, folder: Path) -> None:
    """Put what `evaluate` made, and wrote into `folder`, beside the version that it judged."""
    for name, data in ((SHEET, (folder / SHEET).read_bytes()), (FILE, judged.to_json().encode())):
        for filename in (_under(judged.policy, name), name):
            registry.attest(judged.adapter, version, filename, data)


def attested(registry: Registry, name: str, version: int, policy: Digest) -> Evaluation | None:
    """A version's evaluation under a policy, else its newest; None where nobody judged it."""
    for filename in (_under(policy, FILE), FILE):
        data = registry.attestation(name, version, filename)
        if data is not None:
            return Evaluation.parse(data, f"{FILE} of {name}@{version}")
    return None


def _under(policy: Digest, name: str) -> str:
    return f"{hex_of(policy)[:12]}-{name}"
