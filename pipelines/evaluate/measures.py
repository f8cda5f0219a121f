"""Computes the measures of every picture of an evaluation.

Feature rows have unit length, so the dot product of two rows is their cosine similarity.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from PIL import Image

from pipelines.dataset.marks import stamped

from .copying import copying
from .evaluation import Measured, Measures, Reference, References
from .optional_measures import OptionalMeasures
from .prompt_set import ROLES, PromptCase
from .scorers.protocols import OptionalScorers
from .sharpness import sharpness

# Another adapter's pictures show the same subject if their mean similarity to the references is at
# least this fraction of the references' similarity to each other.
SAME_SUBJECT: Final = 0.9


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
    others = [one for one in reference_set.look_alikes if _is_other(one, references.dino, scorer)]
    if subject := by_role.get("subject"):
        crowd = _crowd([by_role[role] for role in ("class", "subject") if role in by_role])
        crowd += [(one.name, scorer.dino(one.pictures)) for one in others]
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
            look_alikes=tuple(one.name for one in others),
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


# The rows of look-alikes, [pictures, features], each with its name; None for the base.
_Crowd = list[tuple[str | None, np.ndarray]]


def _crowd(compared: Sequence[_Compared]) -> _Crowd:
    """Return the base's pictures of the class, and its pictures for the subject's prompts.

    The latter show a member of the class too, because the base does not know the trigger.
    """
    return [(None, np.concatenate([of_role.off for of_role in compared]))]


def _is_other(look_alikes: LookAlikes, references: np.ndarray, scorer: Scorer) -> bool:
    """Return whether the look-alikes show another subject than the references.

    Those of another adapter show the same subject if they resemble the references nearly as much as
    these resemble each other.
    """
    if look_alikes.declared or len(references) < 2:
        return True
    similar = float((scorer.dino(look_alikes.pictures) @ references.T).mean())
    own = (references @ references.T)[np.triu_indices(len(references), 1)].mean()
    return similar < SAME_SUBJECT * float(own)


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
    crowd: _Crowd,
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
    taken_for = _taken_for(compared.on, references.dino, crowd)
    measured = []
    for i, pair in enumerate(pairs):
        own = {"copying": copies[i].max(), "effect": effect(pair), "sharpness": sharp[i]}
        own["stamp"] = marks[i]
        nearest = reference_set.training_names[int(copies[i].argmax())]
        found = _measured(pair, on[i] | own | beside[i] | more_on[i], off[i] | more_off[i])
        seen = {"nearest": nearest, "look_alike": taken_for[i]}
        measured.append(found.model_copy(update=seen))
    return measured


def _subject_values(
    features: _Features,
    prompts: Sequence[int],
    against: tuple[_Features, np.ndarray, _Crowd],
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
        "retrieval": _retrieved(
            features.dino, references.dino, np.concatenate([rows for _, rows in crowd])
        ),
        "text": (features.clip * texts).sum(axis=1),
    }
    values = [
        {name: float(column[i]) for name, column in columns.items()} for i in range(len(prompts))
    ]
    for i, spread in diversity(features.dino, prompts).items():
        values[i]["diversity"] = spread
    return values


def _retrieved(features: np.ndarray, references: np.ndarray, look_alikes: np.ndarray) -> np.ndarray:
    """Return 1 for each picture whose most similar picture is a reference, otherwise 0.

    A picture of the base is one of the look-alikes itself, so its value is 0.
    """
    own = (features @ references.T).max(axis=1)
    return (own > (features @ look_alikes.T).max(axis=1)).astype(float)


def _together(
    pairs: Sequence[Pair], scorer: Scorer, references: _Features
) -> list[dict[str, float]]:
    """Return the subject fidelity of the pictures with companions; {} for pairs without one."""
    images = [pair.together for pair in pairs if pair.together is not None]
    similar = iter((scorer.dino(images) @ references.dino.T).mean(axis=1) if images else ())
    return [{} if pair.together is None else {"together": next(similar)} for pair in pairs]


def _taken_for(features: np.ndarray, references: np.ndarray, crowd: _Crowd) -> list[str | None]:
    """Return the named look-alikes that each picture is most similar to, None for any other."""
    rows = [(None, references), *crowd]
    nearest = np.stack([(features @ of_one.T).max(axis=1) for _, of_one in rows]).argmax(axis=0)
    return [rows[index][0] for index in nearest]


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
    leak = _retrieved(compared.on, references.dino, compared.off)
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
