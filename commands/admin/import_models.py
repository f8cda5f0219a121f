"""`atelier base` and `atelier scorer`: register models that clusters load by digest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.verb import Answer

if TYPE_CHECKING:
    from atelier.data.names import ArtifactRef
    from atelier.stores.artifacts import Artifacts

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A folder or a hub id.")]
Revision = Annotated[
    str | None, typer.Option(help="Revision of a hub model: a branch, tag or commit.")
]


def import_base(model: Model, revision: Revision = None) -> Answer:
    """Register a base model under its digest.

    InferenceServices and training Jobs load it by that digest. Prints its address, and the digest
    in the form that chart values use. A gated hub model needs HF_TOKEN in the environment.
    """
    from atelier.data.names import ArtifactRef
    from atelier.stores.base_files import base_digest, base_files, resolve_base

    folder = resolve_base(model, revision)
    digest = base_digest(folder)
    ref = ArtifactRef.of("bases", digest)
    done = _imported(ref, folder, base_files(folder), model, revision)
    return Answer(f"{done.text}\n{digest}", {**done.data, "digest": digest})


def import_scorer(model: Model, revision: Revision = None) -> Answer:
    """Register a scorer network (a CLIP or a DINO) under its digest.

    Prints the address by which a policy can name it.
    """
    from atelier.data.names import ArtifactRef
    from atelier.files import digest_files
    from atelier.stores.base_files import scorer_files

    folder, files = scorer_files(model, revision)
    ref = ArtifactRef.of("scorers", digest_files(folder, files))
    return _imported(ref, folder, files, model, revision)


def _imported(
    ref: "ArtifactRef", folder: Path, files: list[Path], model: str, revision: str | None
) -> Answer:
    from atelier.stores.artifacts import known_as
    from commands.progress import progress

    artifacts = open_artifacts()
    with progress() as shown:
        uploaded = artifacts.put(
            ref, folder, files, source=known_as(model, revision), progress=shown
        )
    size = sum(file.stat().st_size for file in files)
    data = {
        "uri": str(ref),
        "model": model,
        "revision": revision,
        "bytes": size,
        "uploaded": uploaded,
    }
    return Answer(str(ref), data)


def open_artifacts() -> "Artifacts":
    """The artifacts of this home, or of the MLflow that MLFLOW_TRACKING_URI names."""
    from atelier.home import Home
    from atelier.stores.artifacts import Artifacts

    return Artifacts(Home.find().tracking_uri)
