"""Stores evaluations beside a version in the registry: the newest, and the newest for each policy.

Each environment has its own policy, so an evaluation for one environment must not replace the
evaluation for another. Unmodified pictures are stored with each evaluation: the first of each
prompt, for comparisons of two versions and for the smoke test, which compares pictures with new
ones from the cluster; and the worst of each gate that the reasons mention.
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from atelier.data.names import Digest, hex_of
from atelier.data.release import Pin
from atelier.errors import BadInput, Refused
from atelier.files import write_atomic
from atelier.home import Home
from atelier.stores.registry import VERDICT_TAG, Registry, VersionInfo

from .evaluation import FILE, REPORT, SHEET, Evaluation, Measured, SamplingSettings
from .prompt_set import ROLES, Role

KEPT: Final = 4  # prompts of each role whose first picture is stored; 1 to 2 megabytes each in SDXL
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
    """Store the evaluation, its sheet, its report and some pictures beside the version.

    `folder` contains the files of the evaluation. The decision becomes a tag of the version, so
    that lists of versions need not read the document.
    """
    for measured in stored(judged):
        data = (folder / measured.picture).read_bytes()
        registry.attest(info, _under(judged.policy, measured.picture), data)
    pages = {name: (folder / name).read_bytes() for name in (SHEET, REPORT)}
    for name, data in {**pages, FILE: judged.to_json().encode()}.items():
        for filename in (_under(judged.policy, name), name):
            registry.attest(info, filename, data)
    registry.tag(info.name, info.version, {VERDICT_TAG: judged.decision})


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
    registry: Registry, info: VersionInfo, policy: Digest | None, *, how: str
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


def kept(judged: Evaluation, role: Role = "subject") -> tuple[Measured, ...]:
    """Return the first picture of each prompt of a role, for at most KEPT prompts."""
    first: dict[str, Measured] = {}
    for measured in sorted(judged.measures.pictures, key=lambda measured: measured.seed):
        if measured.role == role:
            first.setdefault(measured.prompt, measured)
    return tuple(first.values())[:KEPT]


def stored(judged: Evaluation) -> tuple[Measured, ...]:
    """Return the pictures to store beside the version.

    These are the first picture of each prompt and every picture that a reason names. Their number
    is at most 3 × KEPT and NAMED for each limit of the policy.
    """
    paths = {measured.picture for role in ROLES for measured in kept(judged, role)}
    paths |= {path for gate in judged.gates if gate.notable for path in gate.named}
    return tuple(measured for measured in judged.measures.pictures if measured.picture in paths)


def pictures(
    registry: Registry, info: VersionInfo, judged: Evaluation
) -> Mapping[str, Image.Image]:
    """Return the first picture of each subject prompt by its path in the document.

    Old evaluations may lack some pictures.
    """
    files = _files(registry, info, judged, (measured.picture for measured in kept(judged)))
    return {
        path: Image.open(io.BytesIO(data)).convert("RGB")
        for path, data in files
        if data is not None
    }


def download_folder(home: Home, judged: Evaluation) -> Path:
    """Return the default folder for `download`, one for each package and policy."""
    return home.evaluations / f"{hex_of(judged.digest)[:12]}-{hex_of(judged.policy)[:12]}"


def download(
    registry: Registry, info: VersionInfo, judged: Evaluation, into: Path
) -> tuple[Path, ...]:
    """Write evaluation.json, the stored pictures, the sheet and the report to `into`.

    Files that an older release of the program did not store are left out. Returns the paths of the
    pictures.
    """
    names = [measured.picture for measured in stored(judged)]
    written = []
    for name, data in _files(registry, info, judged, [*names, SHEET, REPORT]):
        if data is not None:
            write_atomic(into / name, data)
            written.append(into / name)
    judged.write(into)
    return tuple(path for path in written if path.name not in (SHEET, REPORT))


def stored_picture(
    registry: Registry, info: VersionInfo, judged: Evaluation, path: str, into: Path
) -> Path:
    """Write one stored picture below `into`; return its path. Raises BadInput if it is not stored.

    `path` is relative to the document.
    """
    known = [measured.picture for measured in stored(judged)]
    data = registry.attestation(info, _under(judged.policy, path)) if path in known else None
    if data is None:
        raise BadInput(
            f"{info.label}/{path}: is not stored; the stored pictures are {', '.join(known)}. "
            "`atelier evaluate` generates all of them again"
        )
    write_atomic(into / path, data)
    return into / path


def _files(
    registry: Registry, info: VersionInfo, judged: Evaluation, names: Iterable[str]
) -> list[tuple[str, bytes | None]]:
    """Return files of an evaluation by their path beside the document; None for a missing file."""
    return [(name, registry.attestation(info, _under(judged.policy, name))) for name in names]


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
