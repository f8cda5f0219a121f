"""Collects the inputs of a Job: files with their digests, and the spec that names the digests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from atelier.data.names import ArtifactRef
from atelier.data.recipe import RECIPE_JSON, Recipe
from atelier.errors import BaseError
from atelier.files import digest_files
from atelier.platform.jobs import TrainingSpec
from atelier.stores.artifacts import Artifacts, Progress, known_as
from atelier.stores.base_files import base_digest, base_files, resolve_base, resolve_vae, vae_files
from pipelines.dataset.captions import METADATA
from pipelines.dataset.picture_folder import open_folder


@dataclass(frozen=True)
class Content:
    """The local files of one artifact."""

    ref: ArtifactRef
    root: Path
    files: Sequence[Path]
    source: str | None = None  # the name under which the artifact is registered


@dataclass(frozen=True)
class JobInputs:
    """A recipe, its spec, and the artifacts that the registry must contain before the Job runs."""

    recipe: Recipe
    spec: TrainingSpec
    contents: Sequence[Content]


def pack(recipe: Recipe, artifacts: Callable[[], Artifacts], *, processes: int = 1) -> JobInputs:
    """Return the inputs of a recipe with their digests.

    The registry is queried only for a base from the hub (see `find_base`).
    """
    base, base_contents = find_base(recipe.base.model, recipe.base.revision, artifacts)
    contents = list(base_contents)

    def digest(content: Content) -> str:
        contents.append(content)
        return f"sha256:{content.ref.key}"

    look_alikes = recipe.look_alikes_folder
    spec = TrainingSpec(
        adapter=recipe.adapter,
        recipe=recipe.digest,
        base=base,
        vae=digest(_vae(recipe.base.vae)) if recipe.base.vae else None,
        datasets=tuple(digest(_pictures(recipe.dataset_folder(stage))) for stage in recipe.stages),
        look_alikes=digest(_pictures(look_alikes)) if look_alikes else None,
        processes=processes,
    )
    return JobInputs(recipe, spec, contents)


def put(
    contents: Sequence[Content], artifacts: Artifacts, progress: Progress | None = None
) -> list[str]:
    """Upload the artifacts that the registry lacks; return their addresses."""
    return [
        str(item.ref)
        for item in contents
        if artifacts.put(item.ref, item.root, item.files, source=item.source, progress=progress)
    ]


def upload(inputs: JobInputs, artifacts: Artifacts, progress: Progress | None = None) -> list[str]:
    """Upload the inputs that the registry lacks, the recipe last; return their addresses."""
    uploaded = put(inputs.contents, artifacts, progress)
    with TemporaryDirectory() as aside:
        file = Path(aside) / RECIPE_JSON
        file.write_text(inputs.recipe.to_json(), encoding="utf-8")
        recipe = Content(ArtifactRef.of("recipes", inputs.spec.recipe), Path(aside), [file])
        return uploaded + put([recipe], artifacts)


def find_base(
    model: str, revision: str | None, artifacts: Callable[[], Artifacts]
) -> tuple[str, Sequence[Content]]:
    """Return a base's digest, and the files that the registry must contain.

    For a folder, these are the files of the base. For a hub ID there are none, because the registry
    must already contain the base (`atelier base import`). Raises BaseError if it does not contain
    the base.
    """
    if not Path(model).expanduser().exists():
        ref = artifacts().named("bases", known_as(model, revision))
        if ref is not None:
            return f"sha256:{ref.key}", ()
        which = f"{model} --revision {revision}" if revision else model
        raise BaseError(
            f"base {model}: is neither a folder (relative to {Path.cwd()}) nor in the registry; "
            f"import it: `atelier base import {which}`"
        )
    folder = resolve_base(model, revision)
    digest, files = base_digest(folder), base_files(folder)
    ref = ArtifactRef.of("bases", digest)
    return digest, [Content(ref, folder, files, known_as(model, revision))]


def _vae(name: str) -> Content:
    folder = resolve_vae(name)
    files = vae_files(folder)
    return Content(ArtifactRef.of("vaes", digest_files(folder, files)), folder, files, name)


def _pictures(folder: Path) -> Content:
    """Return a folder's pictures and captions.

    File names are kept, because they determine the order of the pictures.
    """
    files = [*(picture.path for picture in open_folder(folder).pictures), *folder.glob(METADATA)]
    return Content(ArtifactRef.of("datasets", digest_files(folder, files)), folder, files)
