"""Encodes the training pictures of the UNet once: posterior moments in shards, and token ids."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
import torch
from transformers import CLIPTokenizer

from .data import SHARD, load_drawn, shard_scenes
from .files import replacing
from .progress import BuildProgress
from .text import token_ids
from .vae import as_input, load_vae
from .world import caption

WORDINGS: Final[int] = 4  # captions for each picture


@dataclass(frozen=True)
class Latents:
    """The posterior and the tokenized captions of every picture.

    `mean`, `deviation`: float [count, 4, 16, 16], multiplied by `factor`, the scaling factor of the
    VAE; `ids`, `ids_2`: int64 [count, WORDINGS, 77].
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    ids: torch.Tensor
    ids_2: torch.Tensor
    factor: float


def encode_pictures(work: Path, count: int, workers: int, progress: BuildProgress) -> None:
    """Encode the shards of the first `count` common pictures that are not yet encoded."""
    folder = work / "latents"
    folder.mkdir(parents=True, exist_ok=True)
    shards = [n for n in range(-(-count // SHARD)) if not _path(work, n).exists()]
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(workers, mp_context=context) as pool,
        progress.bar("encode", len(shards)) as bar,
    ):
        for _ in pool.map(partial(_encode_shard, work), shards):
            bar.advance()


def load_latents(
    work: Path, count: int, tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]
) -> Latents:
    """Load the latents of the shards with the first `count` pictures, and tokenize captions."""
    shards = range(-(-count // SHARD))
    moments = np.concatenate([np.load(_path(work, n)) for n in shards]).astype(np.float32)
    scenes = [scene for n in shards for scene in shard_scenes("common", n)]
    rng = Random("wordings")
    texts = [caption(scene, rng) for scene in scenes for _ in range(WORDINGS)]
    ids, ids_2 = (token_ids(tok, texts).view(len(scenes), WORDINGS, -1) for tok in tokenizers)
    factor = scaling_factor(work)
    mean, deviation = torch.from_numpy(moments * factor).unbind(1)
    return Latents(mean, deviation, ids, ids_2, factor)


def scaling_factor(work: Path) -> float:
    """Return the factor that gives latents unit variance.

    The factor is computed once and stored in `work`, because the trained UNet depends on it.
    """
    file = work / "scaling_factor.txt"
    if not file.exists():
        file.write_text(repr(float(1 / np.load(_path(work, 0))[:, 0].astype(np.float32).std())))
    return float(file.read_text())


def _path(work: Path, shard: int) -> Path:
    return work / "latents" / f"common-{shard:04d}.npy"


@torch.no_grad()
def _encode_shard(work: Path, shard: int) -> None:
    torch.set_num_threads(1)
    vae = load_vae(work).to(memory_format=torch.channels_last)
    pictures = load_drawn(work, "common", (shard + 1) * SHARD, BuildProgress(quiet=True), shard)
    moments = []
    for batch in pictures.pictures.split(20):
        posterior = vae.encode(as_input(batch)).latent_dist
        moments.append(torch.stack([posterior.mean, posterior.std], dim=1))
    with replacing(_path(work, shard)) as path, path.open("wb") as file:
        np.save(file, torch.cat(moments).half().numpy())
