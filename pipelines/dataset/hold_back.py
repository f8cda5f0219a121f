"""Splits a folder of pictures: some train the adapter, the others are references to judge it.

The program chooses the references by the digests of their content, so neither file names nor the
order of the files have an effect, and the author of a recipe cannot choose them.
"""

from dataclasses import dataclass, replace
from typing import Final

from atelier.errors import DatasetError
from pipelines.dataset.picture_folder import Picture, PictureFolder

SPARED: Final = 12  # distinct pictures; with fewer, training needs all of them
SHARE: Final = 6  # one of so many pictures is held back
# With fewer references, the measures depend on their poses. More would cost training pictures.
FEWEST, MOST = 3, 6
TRAINABLE: Final = 3  # pictures that must remain for training


@dataclass(frozen=True)
class Split:
    """All pictures of a dataset, those for training, and those that are held back."""

    whole: PictureFolder
    training: PictureFolder
    held_back: tuple[Picture, ...]

    @property
    def held_back_digests(self) -> tuple[str, ...]:
        """The sorted digests of the pictures that are held back, each once."""
        return tuple(sorted({picture.digest for picture in self.held_back}))


def hold_back(folder: PictureFolder, count: int | None) -> Split:
    """Hold back `count` distinct pictures; None lets the program decide (see `default_count`).

    Copies of a picture that is held back are held back, too. Raises DatasetError if fewer than
    TRAINABLE pictures remain.
    """
    digests = sorted({picture.digest for picture in folder.pictures})
    number = default_count(len(digests)) if count is None else count
    if number and len(digests) - number < TRAINABLE:
        raise DatasetError(
            f"{folder.path}: {len(digests)} different pictures, of which dataset.hold_back takes "
            f"{number}, leave fewer than {TRAINABLE} for training; add pictures, or set hold_back "
            f"to at most {max(0, len(digests) - TRAINABLE)}"
        )
    return parted(folder, digests[:number])


def default_count(pictures: int) -> int:
    """Return how many of so many distinct pictures are held back without `hold_back`."""
    return 0 if pictures < SPARED else min(MOST, max(FEWEST, pictures // SHARE))


def parted(folder: PictureFolder, held_back: list[str]) -> Split:
    """Split a folder into the pictures with the digests `held_back`, and the others."""
    kept = tuple(picture for picture in folder.pictures if picture.digest not in held_back)
    unseen = tuple(picture for picture in folder.pictures if picture.digest in held_back)
    return Split(folder, replace(folder, pictures=kept), unseen)
