"""The pictures an adapter is held against: those it was trained on, and those kept from it.

Likeness to the wrong pictures proves nothing, so their digest must be the one that the package's
manifest names.
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

from .measures import Compared

ENOUGH: Final = 3  # held-back pictures; fewer say more about their poses than about the subject
HELD_BACK: Final = "held_back"  # the folder beside a recipe that may hold them
RECIPES: Final = (Path("adapters"), Path("examples"))  # folders of a checkout with recipes


def recipe_of(package: Package, folders: Sequence[Path] = RECIPES) -> Recipe:
    """The recipe in `folders` whose digest the package's manifest names; BadInput without one."""
    manifest = package.manifest
    files = [file for folder in folders for file in sorted(folder.rglob("*.yaml"))]
    unreadable = []
    for file in files if manifest.recipe else ():
        if file.name != RECIPE and file.parent.name != manifest.name:
            continue
        try:
            recipe = Recipe.load(file)
        except BadInput as error:  # mostly another adapter's mistake
            unreadable.append(str(error))
            continue
        if recipe.digest == manifest.recipe:
            return recipe
    unread = f" (could not be read: {'; '.join(unreadable)})" if unreadable else ""
    raise BadInput(
        f"{package.path}: no recipe in {' or '.join(map(str, folders))} has the recipe digest of "
        f"its manifest{unread}; name the recipe with --recipe, or the pictures with --pictures"
    )


def compared(manifest: Manifest, source: Recipe | Path, held_back: Path | None = None) -> Compared:
    """The pictures of a recipe or a folder; DatasetError where they are not the package's."""
    if isinstance(source, Recipe):
        stage = source.stages[-1]  # whose subject the adapter was given last
        folder = open_folder(source.dataset_folder(stage), stage.dataset.captions)
        held_back = held_back or _beside(source)
        found = [folder.digest]
    else:
        folder = open_folder(source)
        found = [open_folder(source, column).digest for column in _columns(source)]
    _require_same(manifest, source, found)
    training = [_square(picture.path) for picture in folder.pictures]
    names = [picture.path.relative_to(folder.path).as_posix() for picture in folder.pictures]
    kept = _held_back(held_back, {picture.digest for picture in folder.pictures})
    return Compared(
        digest=manifest.dataset or found[0],
        training=training,
        training_names=names,
        references=[_square(path) for path in kept] or training,
        reference_names=[path.name for path in kept] or names,
        held_back=bool(kept),
    )


def _square(path: Path) -> Image.Image:
    """The middle of a picture at its own resolution, as training crops it; scorers scale it."""
    image = open_picture(path)
    return ImageOps.fit(image, (min(image.size), min(image.size)))


def _columns(folder: Path) -> list[str | None]:
    """The caption columns that a folder may have been trained with; a recipe would say which."""
    file = folder / METADATA
    if not file.exists():
        return [None]
    lines = [json.loads(line) for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    return [None, *sorted({name for line in lines for name in line} - {FILE_NAME})]


def _require_same(manifest: Manifest, source: Recipe | Path, found: Sequence[str]) -> None:
    """An adapter from elsewhere names no dataset; then the given pictures are taken as they are."""
    if manifest.dataset is None or manifest.dataset in found:
        return
    place = source.folder if isinstance(source, Recipe) else source
    raise DatasetError(
        f"{place}: these pictures have digest {found[0]}, but adapter {manifest.name} was trained "
        f"on {manifest.dataset}; give the pictures it was trained on, or train it again"
    )


def _beside(recipe: Recipe) -> Path | None:
    folder = recipe.folder / HELD_BACK
    return folder if folder.is_dir() else None


def _held_back(folder: Path | None, trained_on: set[str]) -> list[Path]:
    """Pictures kept from training, if they are enough to stand for the subject."""
    if folder is None:
        return []
    pictures = open_folder(folder).pictures
    seen = [picture.path.name for picture in pictures if picture.digest in trained_on]
    if seen:
        raise DatasetError(
            f"{folder}: {', '.join(seen)} was trained on; hold other pictures back, or remove it"
        )
    return [picture.path for picture in pictures] if len(pictures) >= ENOUGH else []
