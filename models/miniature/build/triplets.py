"""Measures how well the image encoder tells individuals apart, by visible attribute.

A triplet is a character (anchor), the same in another place and pose (positive), and a character
with one visible attribute changed, in one of both places (negative). It is right if the anchor is
nearer to the positive.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

from .data import GROUP
from .world import (
    ATTRIBUTES,
    OPTIONAL,
    PLACES,
    THOR_CAT,
    Character,
    Scene,
    altered,
    changeable,
    character,
    draw,
)

Shares = dict[str, float]
_BATCH: Final[int] = 100
_GRADED: Final[int] = 40  # characters of which several attributes are changed
_CHANGES: Final[int] = 4


@dataclass(frozen=True)
class Triplet:
    """The rows of three pictures, and the attribute that the negative changes."""

    anchor: int
    positive: int
    negative: int
    attribute: str


def triplets_of(scenes: Sequence[Scene]) -> list[Triplet]:
    """Return the triplets of scenes of the source `triplets`, both ways round.

    Anchor and positive are exchanged as well, so that every negative is compared in its own place
    and in another.
    """
    found = []
    for first in range(0, len(scenes) - GROUP + 1, GROUP):
        for negative in range(first + 2, first + GROUP):
            attribute = changed(scenes[first], scenes[negative])
            found.append(Triplet(first, first + 1, negative, attribute))
            found.append(Triplet(first + 1, first, negative, attribute))
    return found


def changed(one: Scene, other: Scene) -> str:
    """Return the attribute in which two subjects differ. Raises ValueError if it is not one."""
    differing = [
        name for name in ATTRIBUTES if getattr(one.subject, name) != getattr(other.subject, name)
    ]
    if len(differing) != 1:
        raise ValueError(f"the subjects differ in {len(differing)} attributes, not in one")
    return differing[0]


def encoder_features(folder: Path, pictures: torch.Tensor, device: torch.device) -> np.ndarray:
    """Return unit-length features [count, size] of uint8 pictures [count, 3, height, width]."""
    model = AutoModel.from_pretrained(folder, use_safetensors=True).eval().to(device)
    processor = AutoImageProcessor.from_pretrained(folder)
    rows = []
    with torch.no_grad():
        for batch in pictures.split(_BATCH):
            shown = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in batch]
            pooled = model(**processor(shown, return_tensors="pt").to(device)).pooler_output
            rows.append(torch.nn.functional.normalize(pooled.flatten(1), dim=-1).cpu())
    return torch.cat(rows).numpy()


def triplet_shares(features: np.ndarray, scenes: Sequence[Scene]) -> Shares:
    """Return the share of right triplets by attribute."""
    right: dict[str, list[bool]] = {name: [] for name in ATTRIBUTES}
    for triplet in triplets_of(scenes):
        anchor = features[triplet.anchor]
        nearer = anchor @ features[triplet.positive] > anchor @ features[triplet.negative]
        right[triplet.attribute].append(bool(nearer))
    return {name: float(np.mean(values)) for name, values in right.items() if values}


def change_cosines(features: np.ndarray, scenes: Sequence[Scene]) -> Shares:
    """Return the mean cosine of anchors to negatives by attribute, and to positives (`same`)."""
    cosines: dict[str, list[float]] = {name: [] for name in ("same", *ATTRIBUTES)}
    for triplet in triplets_of(scenes):
        anchor = features[triplet.anchor]
        cosines["same"].append(anchor @ features[triplet.positive])
        cosines[triplet.attribute].append(anchor @ features[triplet.negative])
    return {name: float(np.mean(values)) for name, values in cosines.items() if values}


def graded_cosines(folder: Path, device: torch.device) -> list[float]:
    """Return the mean cosine of characters to those with 0 to `_CHANGES` attributes changed."""
    rng = Random("grades")
    scenes = [
        Scene(subject, place)
        for _ in range(_GRADED)
        for place, subjects in zip(
            rng.sample(list(PLACES), 2), _chain(character(rng.randrange(2**32)), rng), strict=True
        )
        for subject in subjects
    ]
    features = encoder_features(folder, _drawn(scenes, rng), device)
    groups = features.reshape(_GRADED, _CHANGES + 2, -1)
    return (groups[:, 1:] @ groups[:, 0, :, None])[..., 0].mean(axis=0).tolist()


def _chain(subject: Character, rng: Random) -> tuple[list[Character], list[Character]]:
    """Return the subject alone, and a chain from it in which each step changes one attribute.

    Parts stay, so that their colours can still be changed.
    """
    chain = [subject]
    lasting = [name for name in changeable(subject) if name not in OPTIONAL]
    for attribute in rng.sample(lasting, _CHANGES):
        chain.append(altered(chain[-1], attribute, rng))
    return [subject], chain


def thor_cat_cosines(folder: Path, device: torch.device) -> Shares:
    """Return mean cosines of the demo's character to itself, and to changed ones (all places)."""
    rng = Random("thor-cat")
    others = {
        "same": THOR_CAT,
        "as a rabbit": replace(THOR_CAT, kind="rabbit"),
        "without the helmet": replace(THOR_CAT, headgear=None),
        "without the cape": replace(THOR_CAT, cape=None),
    }
    subjects = (THOR_CAT, *others.values())
    scenes = [Scene(subject, place) for subject in subjects for place in PLACES]
    features = encoder_features(folder, _drawn(scenes, rng), device)
    features = features.reshape(len(subjects), len(PLACES), -1)
    apart = ~np.eye(len(PLACES), dtype=bool)  # always another place
    return {
        name: float((features[0] @ changed_features.T)[apart].mean())
        for name, changed_features in zip(others, features[1:], strict=True)
    }


def _drawn(scenes: Sequence[Scene], rng: Random) -> torch.Tensor:
    shown = [np.asarray(draw(scene.subject, scene.place, rng)) for scene in scenes]
    return torch.from_numpy(np.stack(shown).transpose(0, 3, 1, 2))
