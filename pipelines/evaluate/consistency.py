"""Finds pictures of different subjects in a dataset, with the scorer of a policy.

An adapter that is trained on several subjects learns none of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import ImageOps

from atelier.data.policy import Policy
from pipelines.dataset import Finding, listed, open_folder, open_picture

from .measures import Scorer

# A picture is odd if its mean similarity to the others is less than this fraction of the median.
ODD: Final = 0.6


def subject_findings(folder: Path, policy: Policy, scorer: Scorer) -> list[Finding]:
    """Return findings about the similarity of the pictures in `folder` to each other.

    The limit is `consistency.min` of the policy. Copies of a picture count once. Raises
    DatasetError if the folder or a picture cannot be read.
    """
    pictures = list({picture.digest: picture for picture in open_folder(folder).pictures}.values())
    if len(pictures) < 2:
        return []
    images = [open_picture(picture.path) for picture in pictures]
    squares = [ImageOps.fit(image, (min(image.size), min(image.size))) for image in images]
    similar = mutual_similarity(scorer.dino(squares))
    gate = policy.gates.get("consistency")
    least = gate.min if gate else None
    value = f"mean similarity of the pictures to each other {similar.mean():.2f}"
    if least is not None and similar.mean() < least:
        order = [pictures[index].path.relative_to(folder).as_posix() for index in similar.argsort()]
        text = (
            f"these pictures show different subjects: {value}, the policy requires {least:.2f} "
            f"(least similar first: {listed(order)})"
        )
        return [Finding("warning", folder, text, "keep the pictures of one subject")]
    return [
        Finding("info", folder, value, "an adapter cannot be expected to score higher"),
        *(_odd(pictures[index].path, similar, index) for index in odd_ones(similar)),
    ]


def mutual_similarity(features: np.ndarray) -> np.ndarray:
    """Return the mean cosine similarity of each row to the other rows, [pictures].

    `features` are at least two rows of unit length.
    """
    similar = features @ features.T
    return np.asarray((similar.sum(axis=1) - similar.diagonal()) / (len(features) - 1))


def odd_ones(similar: Sequence[float] | np.ndarray) -> list[int]:
    """Return the indices of the pictures that are much less similar to the others than usual."""
    usual = float(np.median(similar))
    if usual <= 0:
        return []  # no picture is similar to the others
    return [index for index, value in enumerate(similar) if value < ODD * usual]


def _odd(file: Path, similar: np.ndarray, index: int) -> Finding:
    return Finding(
        "warning",
        file,
        f"shows another subject: its similarity to the other pictures is {similar[index]:.2f} "
        f"instead of {np.median(similar):.2f}",
        "remove it, or crop it to the subject",
    )
