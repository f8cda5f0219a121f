"""Verdicts beside a version in the registry: the newest of all, and the newest under each policy.

Environments judge by pictures of their own, so one's verdict must not take the place of another's.
A few of the pictures stay with each, as they were drawn: for people who compare two versions, and
for whoever wants to know whether a cluster draws what was judged.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from atelier.errors import Refused
from atelier.names import Digest, hex_of
from atelier.registry import Registry, VersionInfo

from .evaluation import FILE, SHEET, Evaluation, Measured, Sampling

KEPT: Final = 4  # pictures; of SDXL's a few megabytes each


@dataclass(frozen=True)
class Sample:
    """One picture that was judged, and all that is needed to draw it again."""

    prompt: str
    seed: int
    sampling: Sampling
    engine_digest: str  # of what drew it
    effect: float  # mean difference of pixels to the base's picture, 0 to 1
    image: Image.Image


def attest(registry: Registry, version: int, judged: Evaluation, folder: Path) -> None:
    """Put what `evaluate` made, and wrote into `folder`, beside the version that it judged."""
    for one in kept(judged):
        data = (folder / one.picture).read_bytes()
        registry.attest(judged.adapter, version, _under(judged.policy, one.picture), data)
    for name, data in ((SHEET, (folder / SHEET).read_bytes()), (FILE, judged.to_json().encode())):
        for filename in (_under(judged.policy, name), name):
            registry.attest(judged.adapter, version, filename, data)


def attested(
    registry: Registry, name: str, version: int, policy: Digest | None = None
) -> Evaluation | None:
    """A version's evaluation under a policy, else its newest; None where nobody judged it."""
    for filename in (*([_under(policy, FILE)] if policy else []), FILE):
        data = registry.attestation(name, version, filename)
        if data is not None:
            return Evaluation.parse(data, f"{FILE} of {name}@{version}")
    return None


def judged_version(
    registry: Registry, info: VersionInfo, policy: Digest, *, how: str
) -> Evaluation:
    """The evaluation of exactly this version; Refused where there is none, and `how` to get it."""
    label = f"{info.name}@{info.version}"
    evaluation = attested(registry, info.name, info.version, policy)
    if evaluation is None:
        raise Refused(f"{label}: nobody has judged it; {how}")
    if (evaluation.adapter, evaluation.digest) != (info.name, info.digest):
        raise Refused(
            f"{label}: its evaluation speaks of {evaluation.adapter} {evaluation.digest}, "
            f"but the version is {info.digest}; evaluate this package"
        )
    return evaluation


def kept(judged: Evaluation) -> tuple[Measured, ...]:
    """What of a verdict's pictures stays beside the version: each subject prompt's first."""
    first: dict[str, Measured] = {}
    for one in judged.measures.pictures:
        if one.role == "subject":
            first.setdefault(one.prompt, one)
    return tuple(first.values())[:KEPT]


def pictures(registry: Registry, version: int, judged: Evaluation) -> Mapping[str, Image.Image]:
    """The kept pictures by their names in the document; fewer where an older program attested."""
    found = {}
    for one in kept(judged):
        data = registry.attestation(judged.adapter, version, _under(judged.policy, one.picture))
        if data is not None:
            found[one.picture] = Image.open(io.BytesIO(data)).convert("RGB")
    return found


def sample(registry: Registry, name: str, version: int, digest: Digest) -> Sample | None:
    """The newest verdict's first picture; None where there is none of this very package."""
    judged = attested(registry, name, version)
    if judged is None or judged.digest != digest:
        return None
    first, found = kept(judged)[0], pictures(registry, version, judged)
    if first.picture not in found:
        return None
    return Sample(
        prompt=first.prompt,
        seed=first.seed,
        sampling=judged.sampling,
        engine_digest=judged.engine_digest,
        effect=first.values["effect"],
        image=found[first.picture],
    )


def _under(policy: Digest, name: str) -> str:
    return f"{hex_of(policy)[:12]}-{name}"
