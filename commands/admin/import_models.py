"""`atelier base` and `atelier scorer`: register models that clusters load by digest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.home import Home
from commands.command import Answer
from commands.terminal import progress

if TYPE_CHECKING:
    from atelier.data.names import ArtifactRef

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Folder or Hugging Face hub ID.")]
Revision = Annotated[
    str | None, typer.Option(help="Revision of a hub model: a commit, tag or branch.")
]


def import_base(model: Model, revision: Revision = None) -> Answer:
    """Register a base model under its digest.

    InferenceServices and training Jobs load the base by this digest. The command prints the address
    of the base and the digest for the chart values. To import a gated hub model, set HF_TOKEN.
    """
    from atelier.data.names import ArtifactRef
    from atelier.stores.base_files import base_digest, base_files, resolve_base

    folder = resolve_base(model, revision)
    digest = base_digest(folder)
    ref = ArtifactRef.of("bases", digest)
    answer = _imported(ref, folder, base_files(folder), model, revision)
    return Answer(f"{answer.text}\n{digest}", {**answer.data, "digest": digest})


def import_scorer(model: Model, revision: Revision = None) -> Answer:
    """Register a scorer under its digest.

    MODEL is an image encoder in transformers' format (CLIP or DINO), a copy detector made by
    `scorer convert`, a folder with detector.onnx and embedder.onnx (faces), or a folder with
    saliency.onnx. The command prints the address of the scorer for use in a policy.
    """
    from atelier.data.names import ArtifactRef
    from atelier.files import digest_files
    from atelier.stores.base_files import scorer_files

    folder, files = scorer_files(model, revision)
    ref = ArtifactRef.of("scorers", digest_files(folder, files))
    return _imported(ref, folder, files, model, revision)


def convert_scorer(
    weights: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="SSCD's published weights (*.torchvision.pt)."),
    ],
    output: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder of the scorer.")],
) -> Answer:
    """Convert the published weights of the copy detector SSCD to safetensors.

    Name the folder as `copy` in the scorers of a policy, or import it with `scorer import`.
    """
    from pipelines.evaluate.scorers.sscd_weights import convert

    convert(weights, output)
    return Answer(str(output), {"folder": str(output)})


def _imported(
    ref: "ArtifactRef", folder: Path, files: list[Path], model: str, revision: str | None
) -> Answer:
    from atelier.stores.artifacts import Artifacts, known_as

    artifacts = Artifacts(Home.find().tracking_uri)
    with progress() as report_progress:
        uploaded = artifacts.put(
            ref, folder, files, source=known_as(model, revision), progress=report_progress
        )
    data = {
        "uri": str(ref),
        "model": model,
        "revision": revision,
        "bytes": sum(file.stat().st_size for file in files),
        "uploaded": uploaded,
    }
    return Answer(str(ref), data)
