"""Computes the measures of every picture of an evaluation.

Feature rows have unit length, so the dot product of two rows is their cosine similarity.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from pipelines.dataset.marks import stamped

from .copying import copying
from .evaluation import Measured, Measures, Reference, References
from .optional_measures import OptionalMeasures
from .prompt_set import ROLES, PromptCase
from .retrieval import Crowd, is_other_subject, retrieved, taken_for
from .scorers.protocols import OptionalScorers
from .sharpness import sharpness


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
    """Pictures from the same noise and prompt: with the adapter, and of the base alone.

    `together` is the picture with the adapter and the policy's companions, if there are any.
    """

    case: PromptCase
    adapter: Image.Image
    base: Image.Image
    together: Image.Image | None = None


@dataclass(frozen=True)
class LookAlikes:
    """Pictures of other members of the class, with a name for reports.

    `declared` tells whether the recipe names the pictures. Those of another adapter may show the
    same subject, if two adapters were trained on it.
    """

    name: str
    pictures: Sequence[Image.Image]
    declared: bool


@dataclass(frozen=True)
class ReferenceSet:
    """The pictures that an adapter's pictures are compared with.

    `references` are the held-back pictures if `held_back` is true, otherwise the training pictures.
    `digest` is the digest of the dataset, which contains both.
    """

    digest: str
    training: Sequence[Image.Image]
    training_names: Sequence[str]
    references: Sequence[Image.Image]
    reference_names: Sequence[str]
    reference_digests: Sequence[str]
    held_back: bool
    look_alikes: Sequence[LookAlikes] = ()


def measure(
    pairs: Sequence[Pair],
    reference_set: ReferenceSet,
    scorer: Scorer,
    optional: OptionalScorers | None = None,
) -> Measures:
    """Return all measures of all pictures, rounded to six decimal digits."""
    more = OptionalMeasures(
        optional or OptionalScorers(),
        scorer.dino,
        reference_set.references,
        reference_set.training,
    )
    by_role = {
        role: _compared(of_role, scorer)
        for role in ROLES
        if (of_role := [pair for pair in pairs if pair.case.role == role])
    }
    references = _features(scorer, reference_set.references)
    pictures: list[Measured] = []
    others = _look_alikes(reference_set, references.dino, scorer)
    if subject := by_role.get("subject"):
        # The base's pictures of the class, and its pictures for the subject's prompts, which show a
        # member of the class too, because the base does not know the trigger.
        bases = [by_role[role].off for role in ("class", "subject") if role in by_role]
        crowd: Crowd = [(None, np.concatenate(bases)), *others]
        pictures += _subjects(subject, reference_set, scorer, references, crowd, more)
    if of_class := by_role.get("class"):
        pictures += _class(of_class, references)
    if unrelated := by_role.get("unrelated"):
        pictures += _unrelated(unrelated)
    return Measures(
        pictures=tuple(pictures),
        references=References(
            digest=reference_set.digest,
            pictures=_references(reference_set, references, more),
            held_back=reference_set.held_back,
            look_alikes=tuple(name for name, _ in others if name is not None),
            likeness=_likeness(references)
            | {name: _rounded(value) for name, value in more.likeness.items()},
        ),
    )


@dataclass(frozen=True)
class _Features:
    """The features of several pictures, [pictures, features] each."""

    dino: np.ndarray
    clip: np.ndarray


@dataclass(frozen=True)
class _Compared:
    """The pairs of one role, with DINO's features of both pictures, [pairs, features] each."""

    pairs: Sequence[Pair]
    on: np.ndarray
    off: np.ndarray

    @property
    def distance(self) -> np.ndarray:
        """The cosine distance of each pair, at least 0."""
        return np.maximum(0.0, 1 - (self.on * self.off).sum(axis=1))


def _compared(pairs: Sequence[Pair], scorer: Scorer) -> _Compared:
    return _Compared(
        pairs, scorer.dino([p.adapter for p in pairs]), scorer.dino([p.base for p in pairs])
    )


def _features(scorer: Scorer, images: Sequence[Image.Image]) -> _Features:
    return _Features(scorer.dino(images), scorer.clip_images(images))


def _look_alikes(reference_set: ReferenceSet, references: np.ndarray, scorer: Scorer) -> Crowd:
    """Return the look-alikes, without those of another adapter that show the same subject."""
    found: Crowd = []
    for one in reference_set.look_alikes:
        rows = scorer.dino(one.pictures)
        if one.declared or is_other_subject(rows, references):
            found.append((one.name, rows))
    return found


def _references(
    reference_set: ReferenceSet, features: _Features, more: OptionalMeasures
) -> tuple[Reference, ...]:
    """Return the reference pictures with their mean similarity to the others (consistency)."""
    similar = features.dino @ features.dino.T
    count = len(similar)
    others = (similar.sum(axis=1) - similar.diagonal()) / max(1, count - 1)
    values = [{"consistency": _rounded(value)} if count > 1 else {} for value in others]
    return tuple(
        Reference(file=name, digest=digest, values=of_picture | of_optional)
        for name, digest, of_picture, of_optional in zip(
            reference_set.reference_names,
            reference_set.reference_digests,
            values,
            more.of_references(),
            strict=True,
        )
    )


def _likeness(features: _Features) -> dict[str, float]:
    """Return the mean similarity of the reference pictures to each other; {} for fewer than two.

    An adapter cannot be expected to score higher than this mean.
    """
    count = len(features.dino)
    if count < 2:
        return {}
    pairs = np.triu_indices(count, 1)
    return {
        "subject": _rounded((features.dino @ features.dino.T)[pairs].mean()),
        "image": _rounded((features.clip @ features.clip.T)[pairs].mean()),
    }


def _subjects(
    compared: _Compared,
    reference_set: ReferenceSet,
    scorer: Scorer,
    references: _Features,
    crowd: Crowd,
    more: OptionalMeasures,
) -> list[Measured]:
    pairs = compared.pairs
    texts = scorer.clip_texts([pair.case.text for pair in pairs])
    adapters, bases = [pair.adapter for pair in pairs], [pair.base for pair in pairs]
    numbers = [pair.case.number for pair in pairs]
    against = (references, texts, crowd)
    on, off = (
        _subject_values(_Features(rows, scorer.clip_images(images)), numbers, against)
        for rows, images in ((compared.on, adapters), (compared.off, bases))
    )
    copies, sharp = copying(adapters, reference_set.training), sharpness(adapters, bases)
    more_on, more_off = more.of_adapter(adapters), more.of_base(bases)
    marks = stamped(reference_set.training, adapters)
    beside = _together(pairs, scorer, references)
    nearest_others = taken_for(compared.on, references.dino, crowd)
    measured = []
    for i, pair in enumerate(pairs):
        own = {"copying": copies[i].max(), "effect": effect(pair), "sharpness": sharp[i]}
        own["stamp"] = marks[i]
        nearest = reference_set.training_names[int(copies[i].argmax())]
        found = _measured(pair, on[i] | own | beside[i] | more_on[i], off[i] | more_off[i])
        seen = {"nearest": nearest, "look_alike": nearest_others[i]}
        measured.append(found.model_copy(update=seen))
    return measured


def _subject_values(
    features: _Features,
    prompts: Sequence[int],
    against: tuple[_Features, np.ndarray, Crowd],
) -> list[dict[str, float]]:
    """Return the measures that exist for pictures of the adapter and for pictures of the base.

    `against` are the features of the references, of the texts and of the look-alikes. `subject`,
    `image` and `text` are the fidelities of DreamBooth (Ruiz et al., 2023): DINO, CLIP-I and
    CLIP-T. The first two are means over all reference pictures.
    """
    references, texts, crowd = against
    columns = {
        "subject": (features.dino @ references.dino.T).mean(axis=1),
        "image": (features.clip @ references.clip.T).mean(axis=1),
        "retrieval": retrieved(features.dino, references.dino, crowd),
        "text": (features.clip * texts).sum(axis=1),
    }
    values = [
        {name: float(column[i]) for name, column in columns.items()} for i in range(len(prompts))
    ]
    for i, spread in diversity(features.dino, prompts).items():
        values[i]["diversity"] = spread
    return values


def _together(
    pairs: Sequence[Pair], scorer: Scorer, references: _Features
) -> list[dict[str, float]]:
    """Return the subject fidelity of the pictures with companions; {} for pairs without one."""
    images = [pair.together for pair in pairs if pair.together is not None]
    similar = iter((scorer.dino(images) @ references.dino.T).mean(axis=1) if images else ())
    return [{} if pair.together is None else {"together": next(similar)} for pair in pairs]


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


def _class(compared: _Compared, references: _Features) -> list[Measured]:
    leak = retrieved(compared.on, references.dino, [(None, compared.off)])
    return [
        _measured(pair, {"class_drift": drift, "leak": shows})
        for pair, drift, shows in zip(compared.pairs, compared.distance, leak, strict=True)
    ]


def _unrelated(compared: _Compared) -> list[Measured]:
    return [
        _measured(pair, {"drift": drift})
        for pair, drift in zip(compared.pairs, compared.distance, strict=True)
    ]


def _measured(
    pair: Pair,
    values: Mapping[str, float],
    base_values: Mapping[str, float] | None = None,
) -> Measured:
    case = pair.case
    return Measured(
        role=case.role,
        prompt=case.prompt,
        seed=case.seed,
        picture=case.file,
        base_picture=case.base_file,
        values={name: _rounded(value) for name, value in values.items()},
        base_values={name: _rounded(value) for name, value in (base_values or {}).items()},
    )


def _rounded(value: float | np.floating) -> float:
    """Round to six digits, so that a verdict recomputed from the file has equal numbers."""
    return round(float(value), 6)
