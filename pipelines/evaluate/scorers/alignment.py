"""Turns a face upright and to the size that a face network was trained on."""

from typing import Final

import numpy as np
from PIL import Image

SIDE: Final = 112  # pixels
# The landmarks of an upright face in a picture of SIDE, x and y: the usual template of networks
# that were trained on faces of 112 pixels (ArcFace, SFace).
TEMPLATE: Final = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)


def aligned(image: Image.Image, landmarks: np.ndarray) -> Image.Image:
    """Return the face with the landmarks [5, 2] at those of TEMPLATE, SIDE pixels wide and high."""
    matrix, offset = similarity_transform(TEMPLATE, landmarks)  # from the result to the picture
    # Pillow's coordinates of a pixel's centre are half a pixel larger than those of landmarks.
    offset = offset + 0.5 - matrix @ np.array([0.5, 0.5])
    coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
    return image.convert("RGB").transform(
        (SIDE, SIDE), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )


def similarity_transform(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix [2, 2] and the offset [2] that move points [n, 2] nearest to others.

    Rotation, scale and translation with the least squared distance (Umeyama, 1991), without a
    reflection.
    """
    from_centre, to_centre = source - source.mean(axis=0), target - target.mean(axis=0)
    left, singular, right = np.linalg.svd(to_centre.T @ from_centre)
    signs = np.array([1.0, np.sign(np.linalg.det(left @ right))])
    rotation = left @ np.diag(signs) @ right
    matrix = rotation * (singular @ signs) / (from_centre**2).sum()
    return matrix, target.mean(axis=0) - matrix @ source.mean(axis=0)
