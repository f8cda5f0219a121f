"""What a recipe names, as a Job on another machine will fetch it: files by digest, and the spec."""

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
from pipelines.dataset.picture_folder import open_folder, picture_files
from pipelines.evaluate.references import HELD_BACK


@dataclass(frozen=True)
class Content:
    """One artifact as it lies here."""

    ref: ArtifactRef
    root: Path
    files: Sequence[Path]
    source: str | None = None


@dataclass(frozen=True)
class JobInputs:
    """A recipe's spec, and what of it has to be in the registry."""

    recipe: Recipe
    spec: TrainingSpec
    contents: Sequence[Content]


def pack(recipe: Recipe, artifacts: Callable[[], Artifacts], *, processes: int = 1) -> JobInputs:
    """Everything with its digest (see `find_base` for a base of the hub)."""
    base, found = find_base(recipe.base.model, recipe.base.revision, artifacts)
    contents = list(found)

    def digest(content: Content) -> str:
        contents.append(content)
        return f"sha256:{content.ref.key}"

    held_back = recipe.folder / HELD_BACK
    spec = TrainingSpec(
        adapter=recipe.adapter,
        recipe=recipe.digest,
        base=base,
        vae=digest(_vae(recipe.base.vae)) if recipe.base.vae else None,
        datasets=tuple(digest(_pictures(recipe.dataset_folder(one))) for one in recipe.stages),
        held_back=digest(_pictures(held_back)) if _any_pictures(held_back) else None,
        processes=processes,
    )
    return JobInputs(recipe, spec, contents)


def put(
    contents: Sequence[Content], artifacts: Artifacts, progress: Progress | None = None
) -> list[str]:
    """Put what is missing; the addresses of what was uploaded."""
    return [
        str(one.ref)
        for one in contents
        if artifacts.put(one.ref, one.root, one.files, source=one.source, progress=progress)
    ]


def upload(parcel: JobInputs, artifacts: Artifacts, progress: Progress | None = None) -> list[str]:
    """Put what is missing, the recipe last; the addresses of what was uploaded."""
    uploaded = put(parcel.contents, artifacts, progress)
    with TemporaryDirectory() as aside:
        file = Path(aside) / RECIPE_JSON
        file.write_text(parcel.recipe.to_json(), encoding="utf-8")
        recipe = Content(ArtifactRef.of("recipes", parcel.spec.recipe), Path(aside), [file])
        return uploaded + put([recipe], artifacts)


def find_base(
    model: str, revision: str | None, artifacts: Callable[[], Artifacts]
) -> tuple[str, Sequence[Content]]:
    """A base's digest, and what of it has to be in the registry: a folder's files.

    A hub id means what `atelier base import` registered; for that alone the registry is asked.
    """
    if not Path(model).expanduser().exists():
        known = artifacts().named("bases", known_as(model, revision))
        if known is not None:
            return f"sha256:{known.key}", ()
        which = f"{model} --revision {revision}" if revision else model
        raise BaseError(
            f"base {model}: neither a folder here (seen from {Path.cwd()}) nor in the registry; "
            f"import it once: `atelier base import {which}`"
        )
    folder = resolve_base(model, revision)
    digest, files = base_digest(folder), base_files(folder)
    ref = ArtifactRef.of("bases", digest)
    return digest, [Content(ref, folder, files, known_as(model, revision))]


def _any_pictures(folder: Path) -> bool:
    return folder.is_dir() and bool(picture_files(folder))


def _vae(name: str) -> Content:
    folder = resolve_vae(name)
    files = vae_files(folder)
    return Content(ArtifactRef.of("vaes", digest_files(folder, files)), folder, files, name)


def _pictures(folder: Path) -> Content:
    """A folder's pictures with their captions, under the names that decide about their order."""
    files = [*(one.path for one in open_folder(folder).pictures), *folder.glob(METADATA)]
    return Content(ArtifactRef.of("datasets", digest_files(folder, files)), folder, files)
