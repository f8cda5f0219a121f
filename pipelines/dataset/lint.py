"""Find errors and weaknesses in a folder of pictures before training starts."""

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from atelier.data.recipe import Recipe, Stage
from atelier.errors import DatasetError, RecipeError
from pipelines.dataset.background import one_background
from pipelines.dataset.hold_back import hold_back
from pipelines.dataset.marks import SIDE, find_mark
from pipelines.dataset.picture_folder import Picture, open_folder, other_files
from pipelines.dataset.pictures import has_transparency, open_picture

Severity = Literal["error", "warning", "info"]

FEW, MANY = 4, 200  # pictures of one subject
ALIKE = 4  # of the 64 bits of their difference hashes, similar pictures differ in at most this many
CUT = 0.35  # share of a picture that a square crop may remove without a warning
BLURRED = 12.0  # variance of the Laplacian on 0..255 greys; sharp photographs have hundreds
DARK, BRIGHT = 30.0, 235.0  # mean grey
PLAIN = 0.60  # share of the border that has the same grey
LISTED = 4  # names in a finding


@dataclass(frozen=True)
class Finding:
    """A finding about a file.

    An error prevents training, a warning reduces the quality of the adapter, and info has no
    effect. `text` is the problem and `advice` the fix.
    """

    severity: Severity
    file: Path
    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.file}: {self.text}; {self.advice}"


def lint(
    folder: Path, *, resolution: int | None = None, captions: str | None = None
) -> list[Finding]:
    """Return all findings about `folder`, errors first.

    A picture with a side below `resolution` pixels gets a warning; None skips this check.
    `captions` is the column of `metadata.jsonl` with the captions; None skips their checks.
    """
    try:
        pictures = open_folder(folder, captions).pictures
    except DatasetError as error:
        return [_refused(error, folder)]
    findings = [*_folder_findings(folder, pictures, captions)]
    hashes: list[tuple[Path, int]] = []
    views: dict[str, Image.Image] = {}
    for picture in pictures:
        try:
            image = open_picture(picture.path)
        except DatasetError as error:
            findings.append(_refused(error, picture.path))
            continue
        findings += _picture_findings(picture.path, image, resolution)
        hashes.append((picture.path, difference_hash(image)))
        views[picture.digest] = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    findings += _common(folder, [picture.path.name for picture in pictures], list(views.values()))
    findings += _duplicates(hashes, {picture.path: picture.digest for picture in pictures})
    order = ("error", "warning", "info")
    return sorted(findings, key=lambda finding: (order.index(finding.severity), finding.file))


def difference_hash(image: Image.Image) -> int:
    """Return the 64-bit dHash of an image. Scaling and compression hardly change the dHash.

    The bits compare the greys of horizontal neighbours in a 9x8 thumbnail (Krawetz 2013).
    """
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.LANCZOS)).astype(int)
    bits = (small[:, 1:] > small[:, :-1]).flatten()
    return int("".join("1" if bit else "0" for bit in bits), 2)


def _refused(error: DatasetError, file: Path) -> Finding:
    """Return a finding for an error, whose message is `file: problem; fix`."""
    text = str(error).removeprefix(f"{file}: ")
    problem, _, advice = text.rpartition("; ")
    return Finding("error", file, problem or text, advice if problem else "fix or remove it")


def _folder_findings(
    folder: Path, pictures: tuple[Picture, ...], captions: str | None
) -> Iterator[Finding]:
    if len(pictures) < FEW:
        text = f"{len(pictures)} pictures are few"
        advice = "use 5 to 20 pictures of one subject, in different places"
        yield Finding("warning", folder, text, advice)
    if len(pictures) > MANY:
        text = f"{len(pictures)} pictures are many for one subject"
        yield Finding("info", folder, text, "increase `steps`, or keep only the best pictures")
    for file in other_files(folder):
        yield Finding(
            "info", file, "the extension is not the extension of a picture", "it is ignored"
        )
    uncaptioned = [picture for picture in pictures if not picture.caption]
    if captions and uncaptioned and len(uncaptioned) < len(pictures):
        for picture in uncaptioned:
            yield Finding(
                "warning", picture.path, "has no caption", "add a line for it to metadata.jsonl"
            )
    elif captions and uncaptioned:
        yield Finding(
            "warning",
            folder,
            "no picture has a caption",
            "write metadata.jsonl, or remove `captions`",
        )


def _picture_findings(path: Path, image: Image.Image, resolution: int | None) -> Iterator[Finding]:
    side, ratio = min(image.size), min(image.size) / max(image.size)
    if resolution and side < resolution:
        text = f"{image.width}x{image.height} is smaller than the resolution {resolution}"
        yield Finding("warning", path, text, "use a larger original, or a lower resolution")
    if 1 - ratio > CUT:
        text = f"a square crop loses {1 - ratio:.0%} of it"
        yield Finding("warning", path, text, "crop it around the subject, or use `crop: none`")
    with Image.open(path) as stored:
        if has_transparency(stored):
            yield Finding(
                "warning",
                path,
                "has transparent parts",
                "add a real background, because transparent parts become white",
            )
        if stored.mode == "CMYK":
            yield Finding("info", path, "is CMYK", "its colours are converted; check the result")
    for check in _CHECKS:
        remark = check(
            np.asarray(image.convert("L").resize((128, 128), Image.Resampling.BOX)).astype(float)
        )
        if remark is not None:
            yield Finding("warning", path, *remark)


Remark: TypeAlias = tuple[str, str] | None  # text and advice
Grey: TypeAlias = npt.NDArray[np.float64]  # [height, width], 0 to 255


def _exposure(grey: Grey) -> Remark:
    mean = float(grey.mean())
    if mean < DARK:
        return f"is very dark (mean {mean:.0f} of 255)", "brighten it or remove it"
    if mean > BRIGHT:
        return f"is very bright (mean {mean:.0f} of 255)", "darken it or remove it"
    return None


def _sharpness(grey: Grey) -> Remark:
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    if laplacian.var() < BLURRED:
        return (
            "is blurred or nearly empty",
            "use a sharp picture, because the adapter also learns blur",
        )
    return None


def _background(grey: Grey) -> Remark:
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    if float((np.abs(border - np.median(border)) < 2).mean()) > PLAIN:
        return "has a plain background", "use mostly pictures with real backgrounds"
    return None


_CHECKS: tuple[Callable[[Grey], Remark], ...] = (_exposure, _sharpness, _background)


def _duplicates(hashes: list[tuple[Path, int]], digests: dict[Path, str]) -> Iterator[Finding]:
    for index, (path, hash_) in enumerate(hashes):
        for other, other_hash in hashes[:index]:
            if digests[path] == digests[other]:
                yield Finding("warning", path, f"is the same file as {other.name}", "remove one")
                break
            if (hash_ ^ other_hash).bit_count() <= ALIKE:
                yield Finding("warning", path, f"looks like {other.name}", "keep the better one")
                break


def _common(folder: Path, names: list[str], views: list[Image.Image]) -> Iterator[Finding]:
    """Find the mark and the background that all pictures have in common."""
    mark = find_mark(views)
    if mark is not None:
        text = (
            f"all {len(names)} pictures have {mark.words} in common ({mark.share:.1%} of the "
            f"picture): {listed(names)}"
        )
        advice = "crop the pictures or remove it, because the adapter learns it with the subject"
        yield Finding("warning", folder, text, advice)
    if one_background(views, None if mark is None else mark.mask):
        text = f"all {len(names)} pictures have one background: {listed(names)}"
        advice = "take pictures in other places, because the adapter learns the background"
        yield Finding("warning", folder, text, advice)


def listed(names: list[str]) -> str:
    """Return the first names, and the number of the others."""
    if len(names) <= LISTED:
        return ", ".join(names)
    return f"{', '.join(names[: LISTED - 1])} and {len(names) - LISTED + 1} others"


def lint_recipe(file: Path) -> list[Finding]:
    """Return all findings about a recipe file and its pictures.

    Each mistake in the recipe is a finding of severity `error`.
    """
    try:
        recipe = Recipe.load(file)
    except RecipeError as error:
        mistakes = str(error).splitlines()
        return [Finding("error", file, mistake, "correct the recipe") for mistake in mistakes]
    findings = [finding for stage in recipe.stages for finding in lint_stage(recipe, stage)]
    if any(finding.severity == "error" for finding in findings):
        return findings
    return findings + lint_look_alikes(recipe)


def lint_stage(recipe: Recipe, stage: Stage) -> list[Finding]:
    """Return all findings about the pictures of one stage of a recipe."""
    data, folder = stage.dataset, recipe.dataset_folder(stage)
    findings = lint(folder, resolution=data.resolution, captions=data.captions)
    if any(finding.severity == "error" for finding in findings):
        return findings
    try:
        hold_back(open_folder(folder, data.captions), data.hold_back)
    except DatasetError as error:
        return [_refused(error, folder), *findings]
    return findings


def lint_look_alikes(recipe: Recipe) -> list[Finding]:
    """Return all findings about the look-alikes of a recipe. Its other pictures have no errors."""
    folder = recipe.look_alikes_folder
    if folder is None:
        return []
    if not folder.is_dir():
        advice = "correct `look_alikes` in the recipe, or remove it"
        return [Finding("error", folder, "no such folder", advice)]
    try:
        pictures = open_folder(folder).pictures
    except DatasetError as error:
        return [_refused(error, folder)]
    trained = {
        picture.digest
        for stage in recipe.stages
        for picture in open_folder(recipe.dataset_folder(stage)).pictures
    }
    return [found for picture in pictures for found in _look_alike_findings(picture, trained)]


def _look_alike_findings(picture: Picture, trained: Set[str]) -> Iterator[Finding]:
    if picture.digest in trained:
        text = "is both a training picture and a look-alike"
        yield Finding("error", picture.path, text, "remove it from one of the two folders")
    try:
        open_picture(picture.path)
    except DatasetError as error:
        yield _refused(error, picture.path)


def check_pictures(recipe: Recipe) -> None:
    """Raise DatasetError with all errors in the pictures of the first folder that has some."""
    checks = [partial(lint_stage, recipe, stage) for stage in recipe.stages]
    for check in [*checks, partial(lint_look_alikes, recipe)]:
        if errors := [str(finding) for finding in check() if finding.severity == "error"]:
            raise DatasetError("\n".join(errors))
