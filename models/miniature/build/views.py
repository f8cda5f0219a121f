"""Alters drawn pictures for training, because the networks will judge generated pictures.

Generated pictures have other frames, light and noise than drawings, and the softness of the VAE.
"""

from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from atelier.files import sha256_file

from .data import Drawn
from .files import replacing
from .progress import BuildProgress
from .trainer import fast_arithmetic
from .vae import as_input

_BATCH: Final[int] = 50


def shrunk(pictures: torch.Tensor, side: int) -> torch.Tensor:
    """Scale uint8 pictures [count, 3, height, width] to `side` pixels, as image processors do."""
    size = (side, side)
    parts = [
        F.interpolate(batch.float(), size, mode="bilinear", antialias=True).round().byte()
        for batch in pictures.split(_BATCH)
    ]
    return torch.cat(parts)


def altered_views(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift, scale, mirror, relight and sometimes blur each picture at random; add noise.

    `pictures` are uint8 [batch, 3, height, width]; the result is float in [-1, 1].
    """
    count = len(pictures)
    pixels = as_input(pictures)
    scale = 0.85 + 0.3 * torch.rand(count, generator=generator)
    shift = 0.24 * (torch.rand(count, 2, generator=generator) - 0.5)
    mirrored = 1 - 2 * torch.randint(2, (count,), generator=generator)
    frame = torch.zeros(count, 2, 3)
    frame[:, 0, 0], frame[:, 1, 1], frame[:, :, 2] = scale * mirrored, scale, shift
    grid = F.affine_grid(frame, list(pixels.shape), align_corners=False)
    moved = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    light = 0.9 + 0.2 * torch.rand(count, 1, 1, 1, generator=generator)
    tint = 0.1 * (torch.rand(count, 3, 1, 1, generator=generator) - 0.5)
    return roughen(moved * light + tint, generator).clamp(-1, 1)


def roughen(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Add noise to pixels [batch, 3, height, width], and blur a quarter of them.

    Without both, a network could rely on the exact edges of drawn pictures.
    """
    blurred = (torch.rand(len(pixels), generator=generator) < 0.25).nonzero()[:, 0]
    padded = F.pad(pixels[blurred], (1, 1, 1, 1), mode="replicate")
    softened = pixels.index_copy(0, blurred, F.avg_pool2d(padded, 3, 1))
    amount = 0.06 * torch.rand(len(pixels), 1, 1, 1, generator=generator)
    return softened + amount * torch.randn(pixels.shape, generator=generator)


@torch.no_grad()
def restored(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """Encode and decode uint8 pictures [batch, 3, height, width]."""
    pixels = as_input(pictures).to(vae.device)
    with fast_arithmetic(pixels.device):
        back = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    return ((back.float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu()


def restore_part(
    drawn: Drawn, share: float, vae: Path, work: Path, name: str, progress: BuildProgress
) -> Drawn:
    """Return the pictures with a fixed random share of them restored by the VAE in a folder.

    The restored pictures are kept in `work`, for this VAE and these numbers of pictures.
    """
    count = int(share * len(drawn))
    rows = torch.randperm(len(drawn), generator=torch.Generator().manual_seed(0))[:count]
    digest = sha256_file(vae / "diffusion_pytorch_model.safetensors").removeprefix("sha256:")[:12]
    path = work / "drawn" / f"{name}-restored-{count}-of-{len(drawn)}-{digest}.npy"
    if not path.exists():
        model = AutoencoderKL.from_pretrained(vae, use_safetensors=True).eval()
        model.to(memory_format=torch.channels_last)
        parts = []
        with progress.bar(f"restore {name}", count) as bar:
            for batch in drawn.pictures[rows].split(_BATCH):
                parts.append(restored(model, batch))
                for _ in batch:
                    bar.advance()
        with replacing(path) as aside, aside.open("wb") as file:
            np.save(file, torch.cat(parts).numpy())
    pictures = drawn.pictures.clone()
    pictures[rows] = torch.from_numpy(np.load(path))
    return Drawn(pictures, drawn.scenes)
