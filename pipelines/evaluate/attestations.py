"""Stores evaluations beside a version in the registry: the newest, and the newest for each policy.

Each environment has its own policy, so an evaluation for one environment must not replace the
evaluation for another. A few unmodified pictures are stored with each evaluation, for people who
compare two versions and for the smoke test, which compares the pictures with new ones from the
cluster.
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

KEPT: Final = 4  # pictures for each evaluation; with SDXL a few megabytes each
SAMPLED: Final = 2  # of these, the smoke test generates this many again


@dataclass(frozen=True)
class JudgedImage:
    """A picture of an evaluation, and all data needed to generate it again."""

    prompt: str
    seed: int
    sampling: SamplingSettings
    engine_digest: str  # digest of the engine that generated the picture
    effect: float | None  # mean absolute pixel difference from the base's picture, 0 to 1
    image: Image.Image


def attest(registry: Registry, info: VersionInfo, judged: Evaluation, folder: Path) -> None:
    """Store the evaluation, its sheet and a few pictures from `folder` beside the version."""
    for measured in kept(judged):
        data = (folder / measured.picture).read_bytes()
        registry.attest(info, _under(judged.policy, measured.picture), data)
    for name, data in ((SHEET, (folder / SHEET).read_bytes()), (FILE, judged.to_json().encode())):
        for filename in (_under(judged.policy, name), name):
            registry.attest(info, filename, data)


def attested_evaluation(
    registry: Registry, info: VersionInfo, policy: Digest | None = None
) -> Evaluation | None:
    """Return the version's evaluation under `policy`, else the newest, or None if there is none."""
    for filename in (*([_under(policy, FILE)] if policy else []), FILE):
        data = registry.attestation(info, filename)
        if data is not None:
            return Evaluation.parse(data, f"{FILE} of {info.label}")
    return None


def evaluation_under(registry: Registry, info: VersionInfo, policy: Digest) -> Evaluation | None:
    """Return the version's evaluation under exactly this policy, or None."""
    evaluation = attested_evaluation(registry, info, policy)
    return evaluation if evaluation is not None and evaluation.policy == policy else None


def judged_version(
    registry: Registry, info: VersionInfo, policy: Digest, *, how: str
) -> Evaluation:
    """Return the evaluation of exactly this version, under `policy` if possible.

    Raises Refused if there is none (the error contains the instruction `how`), or if the evaluation
    is of another package.
    """
    evaluation = attested_evaluation(registry, info, policy)
    if evaluation is None:
        raise Refused(f"{info.label}: has not been evaluated; {how}")
    if (evaluation.adapter, evaluation.digest) != (info.name, info.digest):
        raise Refused(
            f"{info.label}: its evaluation is of {evaluation.adapter} {evaluation.digest}, "
            f"but the version has digest {info.digest}; evaluate this package"
        )
    return evaluation


def kept(judged: Evaluation) -> tuple[Measured, ...]:
    """Return the pictures to store beside the version: the first of each subject prompt."""
    first: dict[str, Measured] = {}
    for measured in judged.measures.pictures:
        if measured.role == "subject":
            first.setdefault(measured.prompt, measured)
    return tuple(first.values())[:KEPT]


def pictures(
    registry: Registry, info: VersionInfo, judged: Evaluation
) -> Mapping[str, Image.Image]:
    """Return the stored pictures by path in the document.

    Old evaluations may lack some pictures.
    """
    images = {}
    for measured in kept(judged):
        data = registry.attestation(info, _under(judged.policy, measured.picture))
        if data is not None:
            images[measured.picture] = Image.open(io.BytesIO(data)).convert("RGB")
    return images


def samples(
    registry: Registry, name: str, pin: Pin, *, base: Digest, vae: Digest | None
) -> tuple[JudgedImage, ...]:
    """Return the first pictures of an evaluation of this package with this base and VAE.

    The newest evaluation is preferred. The result is empty if no evaluation matches.
    """
    info = registry.version(name, pin.version)
    judged = _matching(registry, info, pin, (base, vae))
    if judged is None:
        return ()
    images = pictures(registry, info, judged)
    return tuple(
        JudgedImage(
            prompt=measured.prompt,
            seed=measured.seed,
            sampling=judged.sampling,
            engine_digest=judged.engine_digest,
            effect=measured.values.get("effect"),
            image=images[measured.picture],
        )
        for measured in kept(judged)[:SAMPLED]
        if measured.picture in images
    )


def _matching(
    registry: Registry, info: VersionInfo, pin: Pin, base_and_vae: tuple[Digest, Digest | None]
) -> Evaluation | None:
    files = [name for name in registry.attestations(info) if name.endswith(FILE)]
    for file in sorted(files, key=len):  # FILE is the shortest name, and the newest evaluation
        data = registry.attestation(info, file)
        judged = Evaluation.parse(data or b"", f"{file} of {info.label}")
        if (judged.digest, (judged.base, judged.vae)) == (pin.digest, base_and_vae):
            return judged
    return None


def _under(policy: Digest, name: str) -> str:
    return f"{hex_of(policy)[:12]}-{name}"
