"""Finds the marks that all pictures of a dataset share, such as a stripe, a logo or a border.

An adapter learns a mark as a part of its subject. The pixels of a mark are equal in all pictures,
and its edges are at the same place in all pictures. The interior of the subject can be equal in all
pictures, too, but its edges move with the subject.

An adapter's pictures are softer than its training pictures, so `stamped` tolerates a blurred mark.
On drawings with blur and noise, its values are 0.64 to 0.96 with a stripe, a plate, a logo or a
border, and at most 0.13 without it. Lettering without a plate is not recognised.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE: Final = 128  # pixels of the views that are compared
FEWEST: Final = 4  # different pictures; fewer are equal in places by chance
EQUAL: Final = 10.0  # levels of 255 by which equal pixels may differ from their median
STEP: Final = 16.0  # levels of 255 at an edge
REACH: Final = 2  # pixels over which an edge is measured, because scaling blurs it
ALWAYS: Final = 0.8  # share of the pictures that show an edge of a mark
CLEAR: Final = 0.7  # share of such edges on the outline of a part of a mark
PART, WHOLE = 8, 32  # least edges of a part and of all parts of a mark
NEAR: Final = 15  # pixels; the edges in such a square are judged together
# Shares of a mark's edges that a picture shows: scenery has up to the first share by chance, and a
# generated picture with the mark at least the second.
CHANCE, SHOWN = 0.25, 0.5
MARGIN: Final = 4  # pixels around a mark that a generated picture may smear

Mask: TypeAlias = npt.NDArray[np.bool_]  # [SIDE, SIDE]
View: TypeAlias = npt.NDArray[np.float32]  # [SIDE, SIDE, 3], levels of 255


@dataclass(frozen=True)
class Mark:
    """The pixels of a mark, their colours, and its edges: pairs of a pixel and one outside."""

    mask: Mask
    colours: View
    inside: npt.NDArray[np.intp]  # [edges, 2]: row and column
    outside: npt.NDArray[np.intp]  # [edges, 2]

    @property
    def share(self) -> float:
        """The share of the picture that the mark covers."""
        return float(self.mask.mean())

    @property
    def words(self) -> str:
        """The shape and place of the mark: `a stripe at the bottom`."""
        rows, columns = np.nonzero(self.mask)
        wide, high = np.ptp(columns) > 0.8 * SIDE, np.ptp(rows) > 0.8 * SIDE
        vertical = _third(rows, ("top", "middle", "bottom"))
        horizontal = _third(columns, ("left", "centre", "right"))
        if wide and high:
            return "a border or several marks"
        if wide or high:
            return f"a stripe at the {vertical if wide else horizontal}"
        return f"a mark at the {vertical} {horizontal}"


def find_mark(pictures: Sequence[Image.Image]) -> Mark | None:
    """Return the mark of the pictures; None without one, or for fewer than FEWEST pictures.

    Copies of a picture count once.
    """
    different = {view.tobytes(): view for view in map(_view, pictures)}
    if len(different) < FEWEST:
        return None
    views = np.stack(list(different.values()))
    median = np.median(views, axis=0).astype(np.float32)
    equal = np.abs(views - median).max(axis=(0, 3)) <= EQUAL
    inside, outside = _outline(equal)
    if len(inside) < WHOLE:
        return None
    always = _steps(views, inside, outside).mean(axis=0) >= ALWAYS
    # The second form finds marks that touch an equal part of the subject.
    parted = equal & _clear_surroundings(inside, always)
    mask = _clear_parts(equal, inside, always) | _clear_parts(parted, inside, always)
    chosen = mask[tuple(inside.T)]
    if chosen.sum() < WHOLE:
        return None
    return Mark(mask, median, inside[chosen], outside[chosen])


def _clear_surroundings(inside: npt.NDArray[np.intp], always: npt.NDArray[np.bool_]) -> Mask:
    """Return the pixels whose nearest edges are at the same place in all pictures."""
    from scipy import ndimage  # slow to import

    edges, clear = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
    np.add.at(edges, tuple(inside.T), 1.0)
    np.add.at(clear, tuple(inside.T), always)
    of_edge = ndimage.uniform_filter(clear, NEAR) >= CLEAR * ndimage.uniform_filter(edges, NEAR)
    nearest = ndimage.distance_transform_edt(
        edges == 0, return_distances=False, return_indices=True
    )
    return np.asarray(of_edge[tuple(nearest)])


def _clear_parts(equal: Mask, inside: npt.NDArray[np.intp], always: npt.NDArray[np.bool_]) -> Mask:
    """Return the connected parts whose edges are at the same place in all pictures."""
    from scipy import ndimage  # slow to import

    parts, count = ndimage.label(equal)
    of_edge = parts[tuple(inside.T)]
    edges = np.bincount(of_edge, minlength=count + 1)
    clear = np.bincount(of_edge, always, minlength=count + 1)
    kept = (edges >= PART) & (clear >= CLEAR * edges)
    kept[0] = False  # the pixels of no part
    return np.asarray(kept[parts])


def stamped(training: Sequence[Image.Image], pictures: Sequence[Image.Image]) -> list[float]:
    """Return for each picture how much of the training pictures' mark it shows, from 0 to 1.

    The value is the opacity with which the mark must be laid over the picture's own background to
    give the picture, reduced if the picture has few of the mark's edges (CHANCE, SHOWN). It is 0 if
    the training pictures have no mark.
    """
    mark = find_mark(training)
    return [0.0 if mark is None else _shown(mark, _view(picture)) for picture in pictures]


def _shown(mark: Mark, view: View) -> float:
    edges = _edges(mark, view)
    return opacity(mark, view) * float(np.clip((edges - CHANCE) / (SHOWN - CHANCE), 0, 1))


def _edges(mark: Mark, view: View) -> float:
    """Return the share of the mark's edges at which the colour changes towards the mark's."""
    colour = mark.colours[tuple(mark.inside.T)]
    inside = np.linalg.norm(view[tuple(mark.inside.T)] - colour, axis=1)
    outside = np.linalg.norm(view[tuple(mark.outside.T)] - colour, axis=1)
    return float((outside - inside > STEP).mean())


def opacity(mark: Mark, view: View) -> float:
    """Return the least-squares opacity of a mark in a view, from 0 to 1.

    The background under the mark is that of the nearest pixels around it.
    """
    from scipy import ndimage  # slow to import

    around = ~ndimage.binary_dilation(mark.mask, iterations=MARGIN)
    if not around.any():
        around = ~mark.mask
    nearest = ndimage.distance_transform_edt(~around, return_distances=False, return_indices=True)
    background = view[tuple(nearest)]
    full, shown = (picture - background for picture in (mark.colours, view))
    change = (full * shown)[mark.mask].sum() / max(float((full**2)[mark.mask].sum()), 1e-6)
    return float(np.clip(change, 0.0, 1.0))


def _steps(
    views: npt.NDArray[np.float32], inside: npt.NDArray[np.intp], outside: npt.NDArray[np.intp]
) -> npt.NDArray[np.bool_]:
    """Return [pictures, edges]: whether the colour changes from inside to outside."""
    a, b = views[:, *inside.T], views[:, *outside.T]
    return np.abs(a - b).max(axis=2) > STEP


def _outline(mask: Mask) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the pairs [edges, 2] of a pixel in the mask and a pixel outside, REACH apart."""
    pairs = list(_pairs(mask))
    return np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])


def _pairs(mask: Mask) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    here = np.argwhere(mask)
    for direction in ((0, REACH), (0, -REACH), (REACH, 0), (-REACH, 0)):
        there = here + direction
        valid = ((there >= 0) & (there < SIDE)).all(axis=1)
        a, b = here[valid], there[valid]
        leaves = ~mask[tuple(b.T)]
        yield a[leaves], b[leaves]


def _view(picture: Image.Image) -> View:
    small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)


def _third(positions: npt.NDArray[np.intp], names: tuple[str, str, str]) -> str:
    middle = (positions.min() + positions.max()) / 2
    return names[min(2, int(3 * middle / SIDE))]
