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

from atelier.data.names import Digest, hex_of
from atelier.data.release import Pin
from atelier.errors import Refused
from atelier.stores.registry import Registry, VersionInfo

from .evaluation import FILE, SHEET, Evaluation, Measured, SamplingSettings

KEPT: Final = 4  # pictures; of SDXL's a few megabytes each
SAMPLED: Final = 2  # of them are drawn again before a release counts as served


@dataclass(frozen=True)
class JudgedImage:
    """One picture that was judged, and all that is needed to draw it again."""

    prompt: str
    seed: int
    sampling: SamplingSettings
    engine_digest: str  # of what drew it
    effect: float | None  # mean difference of pixels to the base's picture, 0 to 1
    image: Image.Image


def attest(registry: Registry, info: VersionInfo, judged: Evaluation, folder: Path) -> None:
    """Put what `evaluate` made, and wrote into `folder`, beside the version that it judged."""
    for one in kept(judged):
        data = (folder / one.picture).read_bytes()
        registry.attest(info, _under(judged.policy, one.picture), data)
    for name, data in ((SHEET, (folder / SHEET).read_bytes()), (FILE, judged.to_json().encode())):
        for filename in (_under(judged.policy, name), name):
            registry.attest(info, filename, data)


def attested_evaluation(
    registry: Registry, info: VersionInfo, policy: Digest | None = None
) -> Evaluation | None:
    """A version's evaluation under a policy, else its newest; None where nobody judged it."""
    for filename in (*([_under(policy, FILE)] if policy else []), FILE):
        data = registry.attestation(info, filename)
        if data is not None:
            return Evaluation.parse(data, f"{FILE} of {info.label}")
    return None


def evaluation_under(registry: Registry, info: VersionInfo, policy: Digest) -> Evaluation | None:
    """A version's evaluation under exactly this policy; None where there is none."""
    evaluation = attested_evaluation(registry, info, policy)
    return evaluation if evaluation is not None and evaluation.policy == policy else None


def judged_version(
    registry: Registry, info: VersionInfo, policy: Digest, *, how: str
) -> Evaluation:
    """The evaluation of exactly this version; Refused where there is none, and `how` to get it."""
    evaluation = attested_evaluation(registry, info, policy)
    if evaluation is None:
        raise Refused(f"{info.label}: nobody has judged it; {how}")
    if (evaluation.adapter, evaluation.digest) != (info.name, info.digest):
        raise Refused(
            f"{info.label}: its evaluation speaks of {evaluation.adapter} {evaluation.digest}, "
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


def pictures(
    registry: Registry, info: VersionInfo, judged: Evaluation
) -> Mapping[str, Image.Image]:
    """The kept pictures by their names in the document; fewer where an older program attested."""
    found = {}
    for one in kept(judged):
        data = registry.attestation(info, _under(judged.policy, one.picture))
        if data is not None:
            found[one.picture] = Image.open(io.BytesIO(data)).convert("RGB")
    return found


def samples(
    registry: Registry, name: str, pin: Pin, *, base: Digest, vae: Digest | None
) -> tuple[JudgedImage, ...]:
    """The first pictures of a verdict of this very package, drawn with this base and VAE.

    Of the newest verdict where it is such a one, else of any; none where there is none.
    """
    info = registry.version(name, pin.version)
    judged = _drawn_with(registry, info, pin, (base, vae))
    if judged is None:
        return ()
    found = pictures(registry, info, judged)
    return tuple(
        JudgedImage(
            prompt=one.prompt,
            seed=one.seed,
            sampling=judged.sampling,
            engine_digest=judged.engine_digest,
            effect=one.values.get("effect"),
            image=found[one.picture],
        )
        for one in kept(judged)[:SAMPLED]
        if one.picture in found
    )


def _drawn_with(
    registry: Registry, info: VersionInfo, pin: Pin, drawn_with: tuple[Digest, Digest | None]
) -> Evaluation | None:
    known = registry.attestations(info)
    newest_first = sorted(
        (one for one in known if one.endswith(FILE)), key=len
    )  # FILE itself is the newest
    for file in newest_first:
        data = registry.attestation(info, file)
        judged = Evaluation.parse(data or b"", f"{file} of {info.label}")
        if (judged.digest, (judged.base, judged.vae)) == (pin.digest, drawn_with):
            return judged
    return None


def _under(policy: Digest, name: str) -> str:
    return f"{hex_of(policy)[:12]}-{name}"
