"""Distinguishes people by their faces: a detector finds the face, a second network describes it.

The networks are those of OpenCV's model zoo: YuNet, and SFace (Zhong et al., "SFace:
Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition", 2021), whose licences allow
commercial use. A folder contains `detector.onnx` and `embedder.onnx`.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

from atelier.stores.model_files import DETECTOR, EMBEDDER

from .alignment import SIDE, aligned
from .files import ScorerFiles
from .onnx_network import OnnxNetwork
from .yunet import OUTPUTS, Face, decoded, distinct

_DETECTOR_FIX: Final = f"use OpenCV's face_detection_yunet_2023mar.onnx as {DETECTOR}"
_EMBEDDER_FIX: Final = f"use OpenCV's face_recognition_sface_2021dec.onnx as {EMBEDDER}"
_DETECTOR_SIDE: Final = 640  # pixels, if the detector takes any size
# YuNet finds faces of 10 to 300 pixels. At half the size, it finds those that fill the picture.
_SCALES: Final = (1.0, 0.5)


class Faces:
    """Implements FaceScorer. Raises PolicyError if the folder has no such networks."""

    def __init__(self, source: ScorerFiles, device: str):
        with source.opened() as folder:
            self._detector = OnnxNetwork(
                source, folder / DETECTOR, device, outputs=OUTPUTS, fix=_DETECTOR_FIX
            )
            self._embedder = OnnxNetwork(source, folder / EMBEDDER, device, fix=_EMBEDDER_FIX)
        self._side = self._detector.side(_DETECTOR_SIDE)
        if self._embedder.side(SIDE) != SIDE:
            raise source.error(f"{EMBEDDER} does not take faces of {SIDE} pixels", _EMBEDDER_FIX)

    def faces(self, images: Sequence[Image.Image]) -> list[np.ndarray | None]:
        """Return the features of unit length of each picture's largest face, None without one."""
        return [self._features(image.convert("RGB")) for image in images]

    def detect(self, image: Image.Image) -> list[Face]:
        """Return the faces in a picture, the largest one first."""
        found = [face for scale in _SCALES for face in self._at(image, scale)]
        return sorted(distinct(found), key=lambda face: face.area, reverse=True)

    def _features(self, image: Image.Image) -> np.ndarray | None:
        faces = self.detect(image)
        if not faces:
            return None
        upright = np.asarray(aligned(image, faces[0].landmarks), dtype=np.float32)
        # The network contains the normalisation of its input, red first, in levels of 255.
        features = self._embedder.run(upright.transpose(2, 0, 1))[0].ravel()
        unit: np.ndarray = features / max(float(np.linalg.norm(features)), 1e-12)
        return unit

    def _at(self, image: Image.Image, scale: float) -> list[Face]:
        """Return the faces found if the longest side is the detector's side times `scale`."""
        factor = self._side * scale / max(image.size)
        small = image.resize([max(1, round(side * factor)) for side in image.size])
        canvas = Image.new("RGB", (self._side, self._side))
        canvas.paste(small)
        # The detector was trained on pictures with blue first, in levels of 255.
        pixels = np.asarray(canvas, dtype=np.float32)[:, :, ::-1].transpose(2, 0, 1)
        outputs = dict(zip(OUTPUTS, self._detector.run(pixels), strict=True))
        return [face.scaled(1 / factor) for face in decoded(outputs, self._side)]
