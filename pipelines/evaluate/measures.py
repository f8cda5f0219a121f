"""From pictures to numbers: one picture's likeness to the subject, its text, the base and the rest.

All features are rows of unit length, so a product is a cosine similarity.
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
    """The two networks that a verdict leans on. Every row is of unit length."""

    def dino(self, images: Sequence[Image.Image]) -> np.ndarray:
        """[images, features] that tell individuals of a kind apart."""

    def clip_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """[images, features] in the space that CLIP's texts share."""

    def clip_texts(self, texts: Sequence[str]) -> np.ndarray:
        """[texts, features] in the space that CLIP's pictures share."""


@dataclass(frozen=True)
class Pair:
    """The same noise and prompt, with the adapter and without."""

    shot: PromptCase
    adapter: Image.Image
    base: Image.Image


@dataclass(frozen=True)
class Compared:
    """The pictures an adapter is held against. `references` are the held-back ones, if any."""

    digest: str
    training: Sequence[Image.Image]
    training_names: Sequence[str]
    references: Sequence[Image.Image]
    reference_names: Sequence[str]
    held_back: bool


def measure(pairs: Sequence[Pair], compared: Compared, scorer: Scorer) -> Measures:
    """Every number of every picture, rounded to what the document keeps."""
    subject = [pair for pair in pairs if pair.shot.role == "subject"]
    unrelated = [pair for pair in pairs if pair.shot.role == "unrelated"]
    dino, clip = scorer.dino(compared.references), scorer.clip_images(compared.references)
    pictures = [*_subjects(subject, compared, scorer, dino, clip), *_unrelated(unrelated, scorer)]
    return Measures(
        pictures=tuple(pictures),
        references=References(
            digest=compared.digest,
            files=tuple(compared.reference_names),
            held_back=compared.held_back,
            likeness=_likeness(dino, clip),
        ),
    )


def _likeness(dino: np.ndarray, clip: np.ndarray) -> dict[str, float]:
    """How like the reference pictures are to each other: the most to be expected of a made one."""
    count = len(dino)
    if count < 2:
        return {}
    pairs = np.triu_indices(count, 1)
    return {
        "subject": _rounded((dino @ dino.T)[pairs].mean()),
        "image": _rounded((clip @ clip.T)[pairs].mean()),
    }


def _subjects(
    pairs: Sequence[Pair], compared: Compared, scorer: Scorer, dino: np.ndarray, clip: np.ndarray
) -> list[Measured]:
    if not pairs:
        return []
    texts = scorer.clip_texts([pair.shot.text for pair in pairs])
    on = _subject_values([pair.adapter for pair in pairs], pairs, scorer, (dino, clip, texts))
    off = _subject_values([pair.base for pair in pairs], pairs, scorer, (dino, clip, texts))
    copies = copying([pair.adapter for pair in pairs], compared.training)
    found = []
    for i, pair in enumerate(pairs):
        own = {"copying": _rounded(copies[i].max()), "effect": _rounded(effect(pair))}
        nearest = compared.training_names[int(copies[i].argmax())]
        found.append(_measured(pair, on[i] | own, off[i], nearest))
    return found


def _subject_values(
    images: Sequence[Image.Image],
    pairs: Sequence[Pair],
    scorer: Scorer,
    against: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> list[dict[str, float]]:
    """What the adapter's and the base's pictures are both measured by.

    Fidelity is DreamBooth's: the mean cosine similarity with every reference picture.
    """
    dino, clip, texts = against
    seen, embedded = scorer.dino(images), scorer.clip_images(images)
    columns = {
        "subject": (seen @ dino.T).mean(axis=1),
        "image": (embedded @ clip.T).mean(axis=1),
        "text": (embedded * texts).sum(axis=1),
    }
    values = [
        {name: _rounded(column[i]) for name, column in columns.items()} for i in range(len(pairs))
    ]
    for i, spread in diversity(seen, [pair.shot.number for pair in pairs]).items():
        values[i]["diversity"] = _rounded(spread)
    return values


def diversity(features: np.ndarray, prompts: Sequence[int]) -> dict[int, float]:
    """By picture: its mean distance to the other pictures of its prompt, if there are any."""
    found = {}
    for i, prompt in enumerate(prompts):
        others = [j for j, other in enumerate(prompts) if other == prompt and j != i]
        if others:
            found[i] = float((1 - features[others] @ features[i]).mean())
    return found


def effect(pair: Pair) -> float:
    """How much the adapter changed the picture: the mean difference of its pixels, 0 to 1."""
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
    shot = pair.shot
    return Measured(
        role=shot.role,
        prompt=shot.prompt,
        seed=shot.seed,
        picture=shot.file,
        base_picture=shot.base_file,
        values=values,
        base_values=base_values or {},
        nearest=nearest,
    )


def _rounded(value: float | np.floating) -> float:
    """Six digits: the verdict is worked out from what is written, not from more."""
    return round(float(value), 6)
