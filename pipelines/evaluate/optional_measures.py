"""Computes the measures of the optional scorers; a scorer that is absent adds none.

Feature rows have unit length, so the dot product of two rows is their cosine similarity.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image

from .foreground import background_only, subject_only
from .scorers.protocols import CopyScorer, FaceScorer, OptionalScorers, SaliencyScorer

Encoder = Callable[[Sequence[Image.Image]], np.ndarray]  # DINO's features, [images, features]
Values = list[dict[str, float]]  # of each picture, by measure


class _Part:
    """The measures of one scorer."""

    of_base = True  # whether they are also measured on the base

    def values(self, images: Sequence[Image.Image]) -> Values:
        """Return the measures of pictures."""
        raise NotImplementedError

    def of_references(self) -> Values:
        """Return the measures of the reference pictures, [] if there are none."""
        return []

    def likeness(self) -> dict[str, float]:
        """Return the mean similarity of the reference pictures to each other, by measure."""
        return {}


class OptionalMeasures:
    """The optional scorers, with the features of the reference and training pictures."""

    def __init__(
        self,
        scorers: OptionalScorers,
        dino: Encoder,
        references: Sequence[Image.Image],
        training: Sequence[Image.Image],
    ):
        self._references = references
        self._parts: list[_Part] = []
        if scorers.saliency:
            self._parts.append(_Scenes(scorers.saliency, dino, references, training))
        if scorers.copy:
            self._parts.append(_Copies(scorers.copy, training))
        if scorers.face:
            self._parts.append(_People(scorers.face, references))

    def of_adapter(self, images: Sequence[Image.Image]) -> Values:
        """Return the values of pictures with the adapter."""
        return _joined(images, [part.values(images) for part in self._parts])

    def of_base(self, images: Sequence[Image.Image]) -> Values:
        """Return the values of pictures of the base, for differences."""
        return _joined(images, [part.values(images) for part in self._parts if part.of_base])

    def of_references(self) -> Values:
        """Return the values of the reference pictures: whether each shows a face."""
        return _joined(self._references, [part.of_references() for part in self._parts])

    @property
    def likeness(self) -> dict[str, float]:
        """The mean similarity of the reference pictures to each other, by measure."""
        return {name: value for part in self._parts for name, value in part.likeness().items()}


class _Copies(_Part):
    """`replica`: the similarity to the nearest training picture."""

    of_base = False

    def __init__(self, scorer: CopyScorer, training: Sequence[Image.Image]):
        self._scorer = scorer
        self._training = scorer.features(training)

    def values(self, images: Sequence[Image.Image]) -> Values:
        nearest = (self._scorer.features(images) @ self._training.T).max(axis=1)
        return [{"replica": float(value)} for value in nearest]


class _People(_Part):
    """`face`: the mean similarity to the references' faces, 0 without a face; and `faces`."""

    def __init__(self, scorer: FaceScorer, references: Sequence[Image.Image]):
        self._scorer = scorer
        self._found = scorer.faces(references)
        rows = [features for features in self._found if features is not None]
        self._rows = np.stack(rows) if rows else None

    def values(self, images: Sequence[Image.Image]) -> Values:
        return [self._of(features) for features in self._scorer.faces(images)]

    def of_references(self) -> Values:
        return [{"faces": float(features is not None)} for features in self._found]

    def likeness(self) -> dict[str, float]:
        return _mean_similarity("face", self._rows)

    def _of(self, features: np.ndarray | None) -> dict[str, float]:
        seen = {"faces": float(features is not None)}
        if self._rows is None:
            return seen
        similar = 0.0 if features is None else float((self._rows @ features).mean())
        return {"face": similar} | seen


class _Scenes(_Part):
    """`subject_crop` and `background`: the parts of a picture, compared separately."""

    def __init__(
        self,
        scorer: SaliencyScorer,
        dino: Encoder,
        references: Sequence[Image.Image],
        training: Sequence[Image.Image],
    ):
        self._scorer, self._dino = scorer, dino
        self._references = self._crops(references, scorer.masks(references))
        behind = self._backgrounds(training, scorer.masks(training))
        self._training = np.stack(list(behind.values())) if behind else None

    def values(self, images: Sequence[Image.Image]) -> Values:
        masks = self._scorer.masks(images)
        subjects = (self._crops(images, masks) @ self._references.T).mean(axis=1)
        behind = self._backgrounds(images, masks)
        return [
            {"subject_crop": float(similar), "background": self._learnt(behind.get(i))}
            for i, similar in enumerate(subjects)
        ]

    def likeness(self) -> dict[str, float]:
        return _mean_similarity("subject_crop", self._references)

    def _crops(self, images: Sequence[Image.Image], masks: Sequence[np.ndarray]) -> np.ndarray:
        return self._dino([subject_only(*pair) for pair in zip(images, masks, strict=True)])

    def _backgrounds(
        self, images: Sequence[Image.Image], masks: Sequence[np.ndarray]
    ) -> Mapping[int, np.ndarray]:
        """Return the features by the index of the picture, for those that have a background."""
        behind = {
            i: background
            for i, pair in enumerate(zip(images, masks, strict=True))
            if (background := background_only(*pair))
        }
        rows = self._dino(list(behind.values())) if behind else ()
        return dict(zip(behind, rows, strict=True))

    def _learnt(self, features: np.ndarray | None) -> float:
        """Return the mean similarity to the training backgrounds, 0 where one of them is absent."""
        if features is None or self._training is None:
            return 0.0
        return float((self._training @ features).mean())


def _joined(images: Sequence[Image.Image], parts: Sequence[Values]) -> Values:
    """Return the values of all parts, picture by picture; an empty part adds none."""
    full = [part for part in parts if part]
    return [{name: v for part in full for name, v in part[i].items()} for i in range(len(images))]


def _mean_similarity(name: str, rows: np.ndarray | None) -> dict[str, float]:
    """Return the mean similarity of the rows to each other, {} for fewer than two."""
    if rows is None or len(rows) < 2:
        return {}
    pairs = np.triu_indices(len(rows), 1)
    return {name: float((rows @ rows.T)[pairs].mean())}
