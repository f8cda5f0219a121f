"""Loads the reference pictures of an adapter: training pictures and held-back pictures.

Similarity to the wrong pictures is meaningless, so the digest of the training pictures must equal
the dataset digest in the package's manifest.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image, ImageOps

from atelier.adapter.package import Package
from atelier.data.manifest import Manifest
from atelier.data.recipe import RECIPE, Recipe
from atelier.errors import BadInput, DatasetError
from pipelines.dataset import open_folder, open_picture
from pipelines.dataset.captions import FILE_NAME, METADATA

from .measures import ReferenceSet

ENOUGH: Final = 3  # held-back pictures; with fewer, the measures depend too much on their poses
HELD_BACK: Final = "held_back"  # their optional folder beside a recipe
RECIPES: Final = (Path("adapters"), Path("examples"))  # folders of a checkout with recipes


def recipe_of(package: Package, folders: Sequence[Path] = RECIPES) -> Recipe:
    """Return the recipe in `folders` with the recipe digest of the manifest.

    Raises BadInput if there is none.
    """
    manifest = package.manifest
    files = [file for folder in folders for file in sorted(folder.rglob("*.yaml"))]
    unreadable = []
    for file in files if manifest.recipe else ():
        if file.name != RECIPE and file.parent.name != manifest.name:
            continue
        try:
            recipe = Recipe.load(file)
        except BadInput as error:  # usually in another adapter's recipe, so the search continues
            unreadable.append(str(error))
            continue
        if recipe.digest == manifest.recipe:
            return recipe
    unread = f" (could not be read: {'; '.join(unreadable)})" if unreadable else ""
    raise BadInput(
        f"{package.path}: no recipe in {' or '.join(map(str, folders))} has the recipe digest of "
        f"its manifest{unread}; name the recipe with --recipe, or the pictures with --pictures"
    )


def reference_set(
    manifest: Manifest, source: Recipe | Path, held_back: Path | None = None
) -> ReferenceSet:
    """Load the training pictures of a recipe or a folder, and the held-back pictures if any.

    Without `held_back`, a recipe's folder `held_back` is used. Fewer than ENOUGH held-back
    pictures are ignored. Raises DatasetError if the training pictures do not have the digest of the
    manifest, or if a held-back picture is one of them.
    """
    if isinstance(source, Recipe):
        stage = source.stages[-1]  # the last stage determines the subject
        folder = open_folder(source.dataset_folder(stage), stage.dataset.captions)
        held_back = held_back or _beside(source)
        digests = [folder.digest]
    else:
        folder = open_folder(source)
        digests = [open_folder(source, column).digest for column in _columns(source)]
    _require_same(manifest, source, digests)
    training = [_square(picture.path) for picture in folder.pictures]
    names = [picture.path.relative_to(folder.path).as_posix() for picture in folder.pictures]
    unseen = _held_back(held_back, {picture.digest for picture in folder.pictures})
    return ReferenceSet(
        digest=manifest.dataset or digests[0],
        training=training,
        training_names=names,
        references=[_square(path) for path in unseen] or training,
        reference_names=[path.name for path in unseen] or names,
        held_back=bool(unseen),
    )


def _square(path: Path) -> Image.Image:
    """Crop the central square, as in training, at full resolution; scorers resize it."""
    image = open_picture(path)
    return ImageOps.fit(image, (min(image.size), min(image.size)))


def _columns(folder: Path) -> list[str | None]:
    """Return the caption columns that training may have used; only a recipe names one."""
    file = folder / METADATA
    if not file.exists():
        return [None]
    lines = [json.loads(line) for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    return [None, *sorted({name for line in lines for name in line} - {FILE_NAME})]


def _require_same(manifest: Manifest, source: Recipe | Path, digests: Sequence[str]) -> None:
    """Raise DatasetError if the pictures are not the training pictures of the adapter.

    An imported adapter has no dataset digest, so its pictures are not checked.
    """
    if manifest.dataset is None or manifest.dataset in digests:
        return
    place = source.folder if isinstance(source, Recipe) else source
    raise DatasetError(
        f"{place}: these pictures have digest {digests[0]}, but adapter {manifest.name} was "
        f"trained on {manifest.dataset}; give the pictures on which it was trained, or train the "
        "adapter again"
    )


def _beside(recipe: Recipe) -> Path | None:
    folder = recipe.folder / HELD_BACK
    return folder if folder.is_dir() else None


def _held_back(folder: Path | None, trained_on: set[str]) -> list[Path]:
    """Return the held-back pictures of a folder; none if there are fewer than ENOUGH."""
    if folder is None:
        return []
    pictures = open_folder(folder).pictures
    overlap = [picture.path.name for picture in pictures if picture.digest in trained_on]
    if overlap:
        raise DatasetError(
            f"{folder}: {', '.join(overlap)} was used in training; hold back other pictures, or "
            "remove the file"
        )
    return [picture.path for picture in pictures] if len(pictures) >= ENOUGH else []
