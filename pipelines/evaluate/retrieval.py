"""Decides whose picture an image is by its most similar picture: a reference or a look-alike.

Feature rows have unit length, so the dot product of two rows is their cosine similarity.
"""

from typing import Final, TypeAlias

import numpy as np

# Another adapter's pictures show the same subject if their mean similarity to the references is at
# least this fraction of the references' similarity to each other.
SAME_SUBJECT: Final = 0.9

# The features of look-alikes, [pictures, features], each with its name; None for the base.
Crowd: TypeAlias = list[tuple[str | None, np.ndarray]]


def is_other_subject(features: np.ndarray, references: np.ndarray) -> bool:
    """Return whether pictures of another adapter show another subject than the references."""
    if len(references) < 2:
        return True
    own = (references @ references.T)[np.triu_indices(len(references), 1)].mean()
    return float((features @ references.T).mean()) < SAME_SUBJECT * float(own)


def retrieved(features: np.ndarray, references: np.ndarray, crowd: Crowd) -> np.ndarray:
    """Return 1 for each picture whose most similar picture is a reference, otherwise 0.

    A picture of the base is one of the look-alikes itself, so its value is 0.
    """
    own = (features @ references.T).max(axis=1)
    others = np.concatenate([rows for _, rows in crowd])
    return (own > (features @ others.T).max(axis=1)).astype(float)


def taken_for(features: np.ndarray, references: np.ndarray, crowd: Crowd) -> list[str | None]:
    """Return the named look-alikes that each picture is most similar to, None for any other."""
    rows = [(None, references), *crowd]
    nearest = np.stack([(features @ of_one.T).max(axis=1) for _, of_one in rows]).argmax(axis=0)
    return [rows[index][0] for index in nearest]
