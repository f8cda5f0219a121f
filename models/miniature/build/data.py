"""Draw the pictures for training once, in shards, from a seed, on all cores."""

import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
import torch

from .files import replacing
from .progress import BuildProgress
from .world import PLACES, SIZE, Scene, character, common_scene, draw

SHARD: Final[int] = 500
POSES: Final[int] = 4  # pictures of each random character, all in different places


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


def subject_scenes(rng: Random) -> Iterator[Scene]:
    """Yield `POSES` scenes of each common subject, for the DINO scorer."""
    while True:
        subject = common_scene(rng).subject
        for place in rng.sample(list(PLACES), POSES):
            yield Scene(subject, place)


SOURCES: Final[dict[str, Callable[[Random], Iterator[Scene]]]] = {
    "common": common_scenes,
    "held-out": held_out_scenes,
    "characters": character_scenes,
    "strangers": character_scenes,  # characters on which no scorer is trained
    "subjects": subject_scenes,
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
