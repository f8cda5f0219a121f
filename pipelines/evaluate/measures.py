"""Computes the measures of every picture of an evaluation.

Feature rows have unit length, so the dot product of two rows is their cosine similarity.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from .copying import copying
from .evaluation import Measured, Measures, References
from .prompt_set import PromptCase


class Scorer(Protocol):
    """The two networks that measure pictures. Each method returns feature rows of unit length."""

    def dino(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return [images, features] that distinguish individuals of one class."""

    def clip_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return [images, features] in the space that CLIP shares with texts."""

    def clip_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return [texts, features] in the space that CLIP shares with images."""


@dataclass(frozen=True)
class Pair:
    """Two pictures from the same noise and prompt: with the adapter, and of the base alone."""

    case: PromptCase
    adapter: Image.Image
    base: Image.Image


@dataclass(frozen=True)
class ReferenceSet:
    """The pictures that an adapter's pictures are compared with.

    `references` are the held-back pictures if `held_back` is true, otherwise the training pictures.
    `digest` is the digest of the training pictures.
    """

    digest: str
    training: Sequence[Image.Image]
    training_names: Sequence[str]
    references: Sequence[Image.Image]
    reference_names: Sequence[str]
    held_back: bool


def measure(pairs: Sequence[Pair], reference_set: ReferenceSet, scorer: Scorer) -> Measures:
    """Return all measures of all pictures, rounded to six decimal digits."""
    subject = [pair for pair in pairs if pair.case.role == "subject"]
    unrelated = [pair for pair in pairs if pair.case.role == "unrelated"]
    dino, clip = scorer.dino(reference_set.references), scorer.clip_images(reference_set.references)
    pictures = [
        *_subjects(subject, reference_set, scorer, dino, clip),
        *_unrelated(unrelated, scorer),
    ]
    return Measures(
        pictures=tuple(pictures),
        references=References(
            digest=reference_set.digest,
            files=tuple(reference_set.reference_names),
            held_back=reference_set.held_back,
            likeness=_likeness(dino, clip),
        ),
    )


def _likeness(dino: np.ndarray, clip: np.ndarray) -> dict[str, float]:
    """Return the mean similarity of the reference pictures to each other; {} for fewer than two.

    An adapter cannot be expected to score higher than this mean.
    """
    count = len(dino)
    if count < 2:
        return {}
    pairs = np.triu_indices(count, 1)
    return {
        "subject": _rounded((dino @ dino.T)[pairs].mean()),
        "image": _rounded((clip @ clip.T)[pairs].mean()),
    }


def _subjects(
    pairs: Sequence[Pair],
    reference_set: ReferenceSet,
    scorer: Scorer,
    dino: np.ndarray,
    clip: np.ndarray,
) -> list[Measured]:
    if not pairs:
        return []
    texts = scorer.clip_texts([pair.case.text for pair in pairs])
    on = _subject_values([pair.adapter for pair in pairs], pairs, scorer, (dino, clip, texts))
    off = _subject_values([pair.base for pair in pairs], pairs, scorer, (dino, clip, texts))
    copies = copying([pair.adapter for pair in pairs], reference_set.training)
    measured = []
    for i, pair in enumerate(pairs):
        own = {"copying": _rounded(copies[i].max()), "effect": _rounded(effect(pair))}
        nearest = reference_set.training_names[int(copies[i].argmax())]
        measured.append(_measured(pair, on[i] | own, off[i], nearest))
    return measured


def _subject_values(
    images: Sequence[Image.Image],
    pairs: Sequence[Pair],
    scorer: Scorer,
    against: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> list[dict[str, float]]:
    """Return the measures that exist for pictures of the adapter and for pictures of the base.

    `against` are the DINO and CLIP features of the references and the CLIP features of the texts.
    `subject`, `image` and `text` are the fidelities of DreamBooth (Ruiz et al., 2023): DINO, CLIP-I
    and CLIP-T. The first two are means over all reference pictures.
    """
    dino, clip, texts = against
    dino_rows, clip_rows = scorer.dino(images), scorer.clip_images(images)
    columns = {
        "subject": (dino_rows @ dino.T).mean(axis=1),
        "image": (clip_rows @ clip.T).mean(axis=1),
        "text": (clip_rows * texts).sum(axis=1),
    }
    values = [
        {name: _rounded(column[i]) for name, column in columns.items()} for i in range(len(pairs))
    ]
    for i, spread in diversity(dino_rows, [pair.case.number for pair in pairs]).items():
        values[i]["diversity"] = _rounded(spread)
    return values


def diversity(features: np.ndarray, prompts: Sequence[int]) -> dict[int, float]:
    """Return each picture's mean cosine distance to the other pictures of its prompt, by index.

    `features` are [pictures, features] of unit length. The only picture of a prompt has no entry.
    """
    distances = {}
    for i, prompt in enumerate(prompts):
        others = [j for j, other in enumerate(prompts) if other == prompt and j != i]
        if others:
            distances[i] = float((1 - features[others] @ features[i]).mean())
    return distances


def effect(pair: Pair) -> float:
    """Return the mean absolute pixel difference between adapter and base, from 0 to 1."""
    on, off = (
        np.asarray(image.convert("RGB"), dtype=np.float32) for image in (pair.adapter, pair.base)
    )
    return float(np.abs(on - off).mean() / 255)


def _unrelated(pairs: Sequence[Pair], scorer: Scorer) -> list[Measured]:
    if not pairs:
        return []
    on = scorer.dino([pair.adapter for pair in pairs])
    off = scorer.dino([pair.base for pair in pairs])
    drift = 1 - (on * off).sum(axis=1)
    return [
        _measured(pair, {"drift": _rounded(max(0.0, value))})
        for pair, value in zip(pairs, drift, strict=True)
    ]


def _measured(
    pair: Pair,
    values: dict[str, float],
    base_values: dict[str, float] | None = None,
    nearest: str | None = None,
) -> Measured:
    case = pair.case
    return Measured(
        role=case.role,
        prompt=case.prompt,
        seed=case.seed,
        picture=case.file,
        base_picture=case.base_file,
        values=values,
        base_values=base_values or {},
        nearest=nearest,
    )


def _rounded(value: float | np.floating) -> float:
    """Round to six digits, so that a verdict recomputed from the file has equal numbers."""
    return round(float(value), 6)
