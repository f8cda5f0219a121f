"""Decodes the outputs of the face detector YuNet into boxes with five landmarks.

Wu et al., "YuNet: A Tiny Millisecond-level Face Detector" (2023), in the form of OpenCV's model zoo
(`face_detection_yunet_2023mar.onnx`). The network predicts one face for each cell of three grids.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

STRIDES: Final = (8, 16, 32)  # pixels per cell of the three grids
KINDS: Final = ("cls", "obj", "bbox", "kps")
OUTPUTS: Final = tuple(f"{kind}_{stride}" for kind in KINDS for stride in STRIDES)
SCORE: Final = 0.6  # the least score of a face, and the greatest overlap of two faces:
OVERLAP: Final = 0.3  # the defaults of the model zoo's own class


@dataclass(frozen=True)
class Face:
    """A face in a picture, in pixels."""

    box: tuple[float, float, float, float]  # left, top, width, height
    # [5, 2], x and y: right eye (the left one in the picture), left eye, nose, right and left
    # corner of the mouth
    landmarks: np.ndarray
    score: float  # from 0 to 1

    @property
    def area(self) -> float:
        """The area of the box in square pixels."""
        return self.box[2] * self.box[3]

    def scaled(self, factor: float) -> "Face":
        """Return the face in a picture that is larger by `factor`."""
        left, top, width, height = (value * factor for value in self.box)
        return Face((left, top, width, height), self.landmarks * factor, self.score)


def decoded(outputs: Mapping[str, np.ndarray], side: int) -> list[Face]:
    """Return the faces above SCORE for a square input; several boxes can show one face.

    `outputs` are by the names in OUTPUTS: class and object score [1, cells, 1], box [1, cells, 4]
    and landmarks [1, cells, 10].
    """
    return [face for stride in STRIDES for face in _of_stride(outputs, stride, side // stride)]


def _of_stride(outputs: Mapping[str, np.ndarray], stride: int, columns: int) -> Iterable[Face]:
    cls, obj, boxes, points = (outputs[f"{kind}_{stride}"][0] for kind in KINDS)
    scores = np.sqrt(cls[:, 0].clip(0, 1) * obj[:, 0].clip(0, 1))
    for cell in np.flatnonzero(scores >= SCORE):
        corner = np.array([cell % columns, cell // columns])
        centre = (corner + boxes[cell, :2]) * stride
        extent = np.exp(boxes[cell, 2:]) * stride
        left, top = centre - extent / 2
        yield Face(
            (float(left), float(top), float(extent[0]), float(extent[1])),
            (corner + points[cell].reshape(5, 2)) * stride,
            float(scores[cell]),
        )


def distinct(faces: Sequence[Face]) -> list[Face]:
    """Return one box for each face: that with the highest score (non-maximum suppression)."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: face.score, reverse=True):
        if all(overlap(face, other) <= OVERLAP for other in kept):
            kept.append(face)
    return kept


def overlap(a: Face, b: Face) -> float:
    """Return the intersection of two boxes divided by their union."""
    width = min(a.box[0] + a.box[2], b.box[0] + b.box[2]) - max(a.box[0], b.box[0])
    height = min(a.box[1] + a.box[3], b.box[1] + b.box[3]) - max(a.box[1], b.box[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / max(a.area + b.area - shared, 1e-9)
