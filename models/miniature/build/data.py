"""Draw the pictures for training once, in shards, from a seed, on all cores."""

import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
import torch

from .files import replacing
from .progress import BuildProgress
from .world import (
    PLACES,
    SIZE,
    Character,
    Scene,
    altered,
    changeable,
    character,
    common_scene,
    draw,
)

SHARD: Final[int] = 500
POSES: Final[int] = 4  # pictures of each random character, all in different places
FAMILY: Final[int] = 10  # pictures of a family; it divides SHARD, like the other sizes
GROUP: Final[int] = 10  # pictures of a group of triplets
_SIMILAR: Final[dict[str, str]] = {"cat": "rabbit", "rabbit": "cat"}  # of nearly equal shape
_COMMON_FAMILIES: Final[float] = 0.3  # fraction of the families that descend from common subjects


def held_out(scene: Scene) -> bool:
    """Return whether the scene belongs to the tenth of combinations excluded from training.

    A combination is kind, colour and place.
    """
    return zlib.crc32(" ".join(scene.combination).encode()) % 10 == 0


@dataclass(frozen=True)
class Drawn:
    """Drawn pictures, uint8 [count, 3, SIZE, SIZE], and the scene of each."""

    pictures: torch.Tensor
    scenes: tuple[Scene, ...]

    def __len__(self) -> int:
        return len(self.scenes)


def common_scenes(rng: Random) -> Iterator[Scene]:
    """Yield the scenes on which the base model is trained."""
    while True:
        scene = common_scene(rng)
        if not held_out(scene):
            yield scene


def held_out_scenes(rng: Random) -> Iterator[Scene]:
    """Yield scenes with combinations that are excluded from training."""
    while True:
        scene = common_scene(rng)
        if held_out(scene):
            yield scene


def character_scenes(rng: Random) -> Iterator[Scene]:
    """Yield `POSES` scenes of each random character, for the VAE and the scorers, not the UNet."""
    while True:
        subject = character(rng.randrange(2**32))
        for place in rng.sample(list(PLACES), POSES):
            yield Scene(subject, place)


def family_scenes(rng: Random) -> Iterator[Scene]:
    """Yield families of `FAMILY` scenes, for the image encoder: each individual in two places.

    Each individual but the first differs from an earlier one in a visible attribute. All are shown
    in the same two places, so that neither place nor clothes alone tell them apart.
    """
    while True:
        founder = character(rng.randrange(2**32))
        individuals = [common_scene(rng).subject if rng.random() < _COMMON_FAMILIES else founder]
        while len(individuals) < FAMILY // 2:
            parent = rng.choice(individuals)
            child = _relative(parent, rng)
            if child not in individuals:
                individuals.append(child)
        places = rng.sample(list(PLACES), 2)
        yield from (Scene(subject, place) for subject in individuals for place in places)


def _relative(parent: Character, rng: Random) -> Character:
    """Return the parent with one visible attribute changed; often the kind, to a similar one."""
    attribute = rng.choice(["kind", *changeable(parent)])
    if attribute == "kind" and parent.kind in _SIMILAR and rng.random() < 0.5:
        return replace(parent, kind=_SIMILAR[parent.kind])
    return altered(parent, attribute, rng)


def triplet_scenes(rng: Random) -> Iterator[Scene]:
    """Yield groups of `GROUP` scenes, for the test of the image encoder.

    A group has a character in a place (anchor), the same in another place (positive), and
    characters that differ from it in one visible attribute, in one of both places (negatives). The
    attributes that had the fewest negatives are chosen.
    """
    count: Counter[str] = Counter()
    while True:
        anchor = character(rng.randrange(2**32))
        places = rng.sample(list(PLACES), 2)
        yield from (Scene(anchor, place) for place in places)
        candidates = changeable(anchor)
        rng.shuffle(candidates)
        for attribute in sorted(candidates, key=count.__getitem__)[: GROUP - 2]:
            count[attribute] += 1
            yield Scene(altered(anchor, attribute, rng), rng.choice(places))


SOURCES: Final[dict[str, Callable[[Random], Iterator[Scene]]]] = {
    "common": common_scenes,
    "held-out": held_out_scenes,
    "characters": character_scenes,
    "strangers": character_scenes,  # characters on which nothing is trained
    "families": family_scenes,
    "triplets": triplet_scenes,  # to test the image encoder
    "inspected": character_scenes,  # to test the oracle
}


def load_drawn(
    work: Path, source: str, count: int, progress: BuildProgress, first_shard: int = 0
) -> Drawn:
    """Return the first `count` pictures of a source, after drawing the missing shards.

    The shards before `first_shard` are omitted. `source` is a key of SOURCES.
    """
    shards = range(first_shard, -(-count // SHARD))
    folder = work / "drawn"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {shard: folder / f"{source}-{shard:04d}.npy" for shard in shards}
    missing = [shard for shard in shards if not paths[shard].exists()]
    if missing:
        with (
            ProcessPoolExecutor(os.cpu_count()) as pool,
            progress.bar(f"draw {source}", len(missing)) as bar,
        ):
            for _ in pool.map(partial(_draw_shard, folder, source), missing):
                bar.advance()
    pictures = np.concatenate([np.load(path) for path in paths.values()])[
        : count - first_shard * SHARD
    ]
    scenes = [scene for shard in shards for scene in shard_scenes(source, shard)]
    return Drawn(torch.from_numpy(pictures), tuple(scenes[: len(pictures)]))


def shard_scenes(source: str, shard: int) -> list[Scene]:
    """Return the scenes of a shard without drawing them."""
    scenes = SOURCES[source](Random(f"{source} {shard}"))
    return [next(scenes) for _ in range(SHARD)]


def _draw_shard(folder: Path, source: str, shard: int) -> None:
    rng = Random(f"{source} {shard} poses")
    pictures = np.empty((SHARD, 3, SIZE, SIZE), np.uint8)
    for row, scene in enumerate(shard_scenes(source, shard)):
        pictures[row] = np.asarray(draw(scene.subject, scene.place, rng)).transpose(2, 0, 1)
    with replacing(folder / f"{source}-{shard:04d}.npy") as path, path.open("wb") as file:
        np.save(file, pictures)
