"""Loads the pictures of an adapter's dataset: the training pictures and the references.

Similarity to the wrong pictures is meaningless, so the digest of the pictures must equal the
dataset digest in the package's manifest.
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
from pipelines.dataset import (
    Picture,
    PictureFolder,
    Split,
    hold_back,
    open_folder,
    open_picture,
)
from pipelines.dataset.captions import FILE_NAME, METADATA

from .measures import LookAlikes, ReferenceSet

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


def reference_set(manifest: Manifest, source: Recipe | Path) -> ReferenceSet:
    """Load the pictures of a recipe or a folder: the training pictures and the references.

    The references are the pictures that the manifest lists as held back, or the training pictures
    if it lists none. The look-alikes are those of the recipe. Raises DatasetError if the pictures
    do not have the dataset digest of the manifest, or if the manifest lists others as held back
    than the program chooses.
    """
    if isinstance(source, Recipe):
        stage = source.stages[-1]  # the last stage determines the subject
        folder = open_folder(source.dataset_folder(stage), stage.dataset.captions)
        digests = [folder.digest]
    else:
        folder = open_folder(source)
        digests = [open_folder(source, column).digest for column in _columns(source)]
    _require_same(manifest, source, digests)
    split = _split(manifest, folder)
    chosen = split.held_back or split.training.pictures
    references = list({picture.digest: picture for picture in chosen}.values())  # without copies
    return ReferenceSet(
        digest=manifest.dataset or digests[0],
        training=[_square(picture.path) for picture in split.training.pictures],
        training_names=_names(folder, split.training.pictures),
        references=[_square(picture.path) for picture in references],
        reference_names=_names(folder, references),
        reference_digests=[picture.digest for picture in references],
        held_back=bool(split.held_back),
        look_alikes=_look_alikes(source) if isinstance(source, Recipe) else (),
    )


def _look_alikes(recipe: Recipe) -> tuple[LookAlikes, ...]:
    folder = recipe.look_alikes_folder
    if folder is None:
        return ()
    images = [_square(picture.path) for picture in open_folder(folder).pictures]
    return (LookAlikes(Path(recipe.look_alikes or "").name, images, declared=True),)


def _split(manifest: Manifest, folder: PictureFolder) -> Split:
    split = hold_back(folder, len(manifest.held_back))
    if split.held_back_digests != tuple(sorted(manifest.held_back)):
        raise DatasetError(
            f"{folder.path}: the manifest of adapter {manifest.name} holds back other pictures "
            "than the program chooses from this dataset; train the adapter again"
        )
    return split


def _names(folder: PictureFolder, pictures: Sequence[Picture]) -> list[str]:
    return [picture.path.relative_to(folder.path).as_posix() for picture in pictures]


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
