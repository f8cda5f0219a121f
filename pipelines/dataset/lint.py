"""What is wrong, or merely poor, about a folder of pictures, said before an hour is spent on it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from atelier.data.recipe import Recipe, Stage
from atelier.errors import DatasetError, RecipeError
from pipelines.dataset.picture_folder import Picture, open_folder, other_files
from pipelines.dataset.pictures import has_transparency, open_picture

Severity = Literal["error", "warning", "info"]

FEW, MANY = 4, 200  # pictures of one subject
ALIKE = 4  # of 64 bits of a difference hash
CUT = 0.35  # share of a picture that a square crop may lose unremarked
BLURRED = 12.0  # variance of the Laplacian on 0..255 greys; sharp photographs have hundreds
DARK, BRIGHT = 30.0, 235.0  # mean grey
PLAIN = 0.60  # share of one and the same colour along the border


@dataclass(frozen=True)
class Finding:
    """One remark. An error stops training; a warning costs quality; info is worth knowing."""

    severity: Severity
    file: Path
    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.file}: {self.text}; {self.advice}"


def lint(
    folder: Path, *, resolution: int | None = None, captions: str | None = None
) -> list[Finding]:
    """All findings about `folder`, errors first; an empty list means nothing to remark."""
    try:
        pictures = open_folder(folder, captions).pictures
    except DatasetError as error:
        return [_refused(error, folder)]
    findings = [*_about_the_folder(folder, pictures, captions)]
    hashes: list[tuple[Path, int]] = []
    for picture in pictures:
        try:
            image = open_picture(picture.path)
        except DatasetError as error:
            findings.append(_refused(error, picture.path))
            continue
        findings += _about_one(picture.path, image, resolution)
        hashes.append((picture.path, difference_hash(image)))
    findings += _twins(hashes, {picture.path: picture.digest for picture in pictures})
    order = ("error", "warning", "info")
    return sorted(findings, key=lambda one: (order.index(one.severity), one.file))


def difference_hash(image: Image.Image) -> int:
    """64 bits that stay nearly the same under scaling and compression (dHash)."""
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.LANCZOS)).astype(int)
    bits = (small[:, 1:] > small[:, :-1]).flatten()
    return int("".join("1" if bit else "0" for bit in bits), 2)


def _refused(error: DatasetError, file: Path) -> Finding:
    text = str(error).removeprefix(f"{file}: ")
    what, _, advice = text.rpartition("; ")
    return Finding("error", file, what or text, advice if what else "fix or remove it")


def _about_the_folder(
    folder: Path, pictures: tuple[Picture, ...], captions: str | None
) -> Iterator[Finding]:
    if len(pictures) < FEW:
        text = f"{len(pictures)} pictures are few"
        yield Finding(
            "warning", folder, text, "5 to 20 of one subject, in different places, learn best"
        )
    if len(pictures) > MANY:
        text = f"{len(pictures)} pictures are many for one subject"
        yield Finding("info", folder, text, "raise `steps`, or keep the best")
    for file in other_files(folder):
        yield Finding("info", file, "is not a picture by its ending", "it is not trained on")
    silent = [picture for picture in pictures if not picture.caption]
    if captions and silent and len(silent) < len(pictures):
        for picture in silent:
            yield Finding(
                "warning", picture.path, "has no caption", "add its line to metadata.jsonl"
            )
    elif captions and silent:
        yield Finding(
            "warning",
            folder,
            "no picture has a caption",
            "write metadata.jsonl, or drop `captions`",
        )


def _about_one(path: Path, image: Image.Image, resolution: int | None) -> Iterator[Finding]:
    side, ratio = min(image.size), min(image.size) / max(image.size)
    if resolution and side < resolution:
        text = f"{image.width}x{image.height} is smaller than the resolution {resolution}"
        yield Finding("warning", path, text, "find a larger original, or train at less")
    if 1 - ratio > CUT:
        text = f"a square crop loses {1 - ratio:.0%} of it"
        yield Finding(
            "warning", path, text, "crop it around the subject yourself, or use `crop: none`"
        )
    with Image.open(path) as stored:
        if has_transparency(stored):
            yield Finding(
                "warning",
                path,
                "has transparent parts",
                "they become white: put it on a real background",
            )
        if stored.mode == "CMYK":
            yield Finding("info", path, "is CMYK", "its colours are converted; check how they look")
    for judge in _JUDGES:
        found = judge(
            np.asarray(image.convert("L").resize((128, 128), Image.Resampling.BOX)).astype(float)
        )
        if found is not None:
            yield Finding("warning", path, *found)


Remark: TypeAlias = tuple[str, str] | None
Grey: TypeAlias = npt.NDArray[np.float64]


def _exposure(grey: Grey) -> Remark:
    mean = float(grey.mean())
    if mean < DARK:
        return f"is very dark (mean {mean:.0f} of 255)", "brighten it or leave it out"
    if mean > BRIGHT:
        return f"is very bright (mean {mean:.0f} of 255)", "darken it or leave it out"
    return None


def _sharpness(grey: Grey) -> Remark:
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    if laplacian.var() < BLURRED:
        return "is blurred or nearly empty", "use a sharp one: blur is learnt as well"
    return None


def _background(grey: Grey) -> Remark:
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    if float((np.abs(border - np.median(border)) < 2).mean()) > PLAIN:
        return "stands before a plain background", "have most pictures in real places"
    return None


_JUDGES: tuple[Callable[[Grey], Remark], ...] = (_exposure, _sharpness, _background)


def _twins(hashes: list[tuple[Path, int]], digests: dict[Path, str]) -> Iterator[Finding]:
    for index, (path, one) in enumerate(hashes):
        for other, two in hashes[:index]:
            if digests[path] == digests[other]:
                yield Finding("warning", path, f"is the same file as {other.name}", "remove one")
                break
            if (one ^ two).bit_count() <= ALIKE:
                yield Finding("warning", path, f"looks like {other.name}", "keep the better one")
                break


def lint_recipe(file: Path) -> list[Finding]:
    """All findings about a recipe file and its pictures; each mistake in the file is an error."""
    try:
        recipe = Recipe.load(file)
    except RecipeError as error:
        mistakes = str(error).splitlines()
        return [Finding("error", file, mistake, "correct the recipe") for mistake in mistakes]
    return [finding for stage in recipe.stages for finding in lint_stage(recipe, stage)]


def lint_stage(recipe: Recipe, stage: Stage) -> list[Finding]:
    """All findings about the pictures of one of a recipe's stages."""
    data, folder = stage.dataset, recipe.dataset_folder(stage)
    return lint(folder, resolution=data.resolution, captions=data.captions)


def check_pictures(recipe: Recipe) -> None:
    """DatasetError with all that is wrong with a recipe's pictures."""
    for stage in recipe.stages:
        found = lint_stage(recipe, stage)
        if errors := [str(finding) for finding in found if finding.severity == "error"]:
            raise DatasetError("\n".join(errors))
