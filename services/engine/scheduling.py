"""Choose the images of the next UNet call. This module uses no tensors.

A call has the latent shape of the oldest image. Other images of this shape are added, oldest first,
up to the limit of rows. An image that `patience` consecutive calls did not include precedes all
other images, so that a stream of requests of one size cannot block another size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Shape = tuple[int, int]  # height and width of latents, in latent elements


class Candidate(Protocol):
    """The properties of an image that decide whether it is chosen."""

    @property
    def order(self) -> int:
        """The position in the order of arrival."""
        ...

    @property
    def shape(self) -> Shape:
        """The height and width of the latents."""
        ...

    @property
    def rows(self) -> int:
        """UNet rows per call: two with guidance, else one."""
        ...

    @property
    def left_out(self) -> int:
        """The number of consecutive calls without this image."""
        ...


C = TypeVar("C", bound=Candidate)


@dataclass(frozen=True)
class Batch(Generic[C]):
    """The images of one UNet call."""

    images: tuple[C, ...]

    @property
    def rows(self) -> int:
        """The number of UNet rows, without padding."""
        return sum(image.rows for image in self.images)


def choose(candidates: Sequence[C], *, max_rows: int, patience: int) -> Batch[C]:
    """Choose images of one latent shape with at most `max_rows` UNet rows in total.

    `max_rows` is never less than the rows of one image, so the result is empty only if there are no
    candidates.
    """

    def priority(image: C) -> tuple[int, int]:
        return (-image.left_out if image.left_out >= patience else 0, image.order)

    queue = sorted(candidates, key=priority)
    chosen: list[C] = []
    room = max_rows
    for candidate in queue:
        if candidate.shape == queue[0].shape and candidate.rows <= room:
            chosen.append(candidate)
            room -= candidate.rows
    return Batch(tuple(chosen))


def padded(rows: int, ladder: Sequence[int]) -> int:
    """Return the smallest batch size in `ladder` of at least `rows`, or `rows` if there is none."""
    return min((rung for rung in ladder if rung >= rows), default=rows)
