"""Which images take part in the next UNet call: decisions only, no tensors.

One call has one latent shape. The oldest image decides which, and images of the same shape join it,
oldest first, up to the limit of rows. An image left out for `patience` calls in a row goes before
all others, so that a stream of requests of one size cannot hold up another size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Shape = tuple[int, int]


class Candidate(Protocol):
    """What the decision needs to know of an image."""

    @property
    def order(self) -> int:
        """Place in the order of arrival."""
        ...

    @property
    def shape(self) -> Shape:
        """Height and width of the latents."""
        ...

    @property
    def rows(self) -> int:
        """UNet rows a step takes: two with guidance, else one."""
        ...

    @property
    def left_out(self) -> int:
        """How many calls in a row went by without it."""
        ...


C = TypeVar("C", bound=Candidate)


@dataclass(frozen=True)
class Batch(Generic[C]):
    """The images of one UNet call."""

    images: tuple[C, ...]

    @property
    def rows(self) -> int:
        """UNet rows, before any padding."""
        return sum(image.rows for image in self.images)


def choose(candidates: Sequence[C], *, max_rows: int, patience: int) -> Batch[C]:
    """The images of the next call, of one latent shape and at most `max_rows` UNet rows together.

    Empty only without candidates, for `max_rows` is at least the rows of one image.
    """

    def place(one: C) -> tuple[int, int]:
        return (-one.left_out if one.left_out >= patience else 0, one.order)

    queue = sorted(candidates, key=place)
    chosen: list[C] = []
    room = max_rows
    for candidate in queue:
        if candidate.shape == queue[0].shape and candidate.rows <= room:
            chosen.append(candidate)
            room -= candidate.rows
    return Batch(tuple(chosen))


def padded(rows: int, ladder: Sequence[int]) -> int:
    """The batch size to run `rows` at: the next rung, or `rows` without a ladder or above it."""
    return min((rung for rung in ladder if rung >= rows), default=rows)
